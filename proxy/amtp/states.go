package amtp

import "strings"

// State is one of the five states (-01, 3).
type State string

// The states.
const (
	Identified  State = "identified"  // a connection, of nobody who is known yet
	Email       State = "email"       // of a user who has logged in
	Information State = "information" // of a server that announces mail
	Retrieved   State = "retrieved"   // of a server that fetches mail which was announced to it
	Logout      State = "logout"      // the end: everything is released
)

// Needs says what must have happened, besides the state, for a command to be served.
type Needs string

// The needs.
const (
	NeedsNothing    Needs = ""
	NeedsUser       Needs = "USER was said"
	NeedsRecipients Needs = "a recipient was taken"
)

// Transition is one row of the table of states: a command that is served in a state, what is said where it succeeds,
// and the state then. A command without a row for the state hears 503.
type Transition struct {
	From  State
	Verb  Verb
	Needs Needs
	Says  string // the codes in their order: "354 250"
	Then  State
}

// Transitions is the table of states, and all that a server goes by. Commands that are served in every state and
// leave it stand in it once for each.
var Transitions = []Transition{
	{Identified, StartTLS, NeedsNothing, "220", Identified},
	{Identified, User, NeedsNothing, "250", Identified},
	{Identified, Credentials, NeedsUser, "250", Email},
	{Identified, Selo, NeedsNothing, "250", Information},
	{Identified, Sema, NeedsNothing, "250 250", Retrieved},
	{Email, Rcpt, NeedsNothing, "250", Email},
	{Email, More, NeedsRecipients, "250", Email},
	{Email, Head, NeedsRecipients, "354 250", Email},
	{Email, Data, NeedsRecipients, "354 250", Email},
	{Information, Selo, NeedsNothing, "250", Information},
	{Retrieved, Sema, NeedsNothing, "250 250", Retrieved},
	{Identified, Rset, NeedsNothing, "250", Identified},
	{Email, Rset, NeedsNothing, "250", Email},
	{Information, Rset, NeedsNothing, "250", Information},
	{Retrieved, Rset, NeedsNothing, "250", Retrieved},
	{Identified, Noop, NeedsNothing, "250", Identified},
	{Email, Noop, NeedsNothing, "250", Email},
	{Information, Noop, NeedsNothing, "250", Information},
	{Retrieved, Noop, NeedsNothing, "250", Retrieved},
	{Identified, Help, NeedsNothing, "211", Identified},
	{Email, Help, NeedsNothing, "211", Email},
	{Information, Help, NeedsNothing, "211", Information},
	{Retrieved, Help, NeedsNothing, "211", Retrieved},
	{Identified, Quit, NeedsNothing, "221", Logout},
	{Email, Quit, NeedsNothing, "221", Logout},
	{Information, Quit, NeedsNothing, "221", Logout},
	{Retrieved, Quit, NeedsNothing, "221", Logout},
}

// transition finds the row for a command; nil: it is not served in that state.
func transition(from State, verb Verb) *Transition {
	for i := range Transitions {
		if t := &Transitions[i]; t.From == from && t.Verb == verb {
			return t
		}
	}
	return nil
}

// String is the row in words, for a reader.
func (t *Transition) String() string {
	return strings.Join([]string{string(t.From), string(t.Verb), string(t.Needs), t.Says, string(t.Then)}, " | ")
}
