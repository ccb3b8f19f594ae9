// Package expr is the language of conditions: a part of expr-lang's, whose parser
// it uses, over the facts that a struct has (see Describe) and over lists. Package
// policy documents the language for those who write rules.
//
// An expression is checked and compiled here and not by the library, so that faults
// speak of facts and of result words, so that every value on the way can be shown,
// and so that an evaluation costs no allocation (the library's machine boxes each
// fact that it reads). A property test holds the two evaluations together.
//
// Besides its value an expression can be asked for what it reads, for its value where
// some facts are not known (Kleene's logic), and for the variables that it turns on,
// to ask "what if". A Template writes facts into a text.
package expr
