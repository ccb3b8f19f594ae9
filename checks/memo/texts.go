package memo

import lru "github.com/hashicorp/golang-lru/v2"

const (
	// texts and MaxText bound a Texts, to 2 MiB of text. What is read of a text should
	// not be a multiple of it.
	texts = 1024
	// MaxText is the longest text that is remembered, in octets.
	MaxText = 2 << 10
)

// Texts remembers what texts were read as, by the texts themselves: a record that changes
// is another text. It is for use by several goroutines, and what it holds is shared by
// them; nil remembers nothing.
type Texts[What any] struct {
	known *lru.Cache[string, What]
}

// NewTexts returns an empty Texts of at most 1,024 texts.
func NewTexts[What any]() *Texts[What] { return &Texts[What]{known: cache[string, What](texts)} }

// Read returns what read makes of a text, or made of it before. The text should not be a
// part of something larger, for it is kept.
func (t *Texts[What]) Read(text string, read func(text string) What) What {
	if t == nil || len(text) > MaxText {
		return read(text)
	}
	what, ok := t.known.Get(text)
	if !ok {
		what = read(text)
		t.known.Add(text, what)
	}
	return what
}
