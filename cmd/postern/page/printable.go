package page

import (
	"bytes"
	"encoding/json"
	"fmt"

	"postern/configs"
)

// encode returns a value as JSON in which all texts are printable, the names of fields and keys too: a
// browser obeys the characters that turn the direction of a text as a terminal does, and shows
// others as nothing at all.
func encode(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var plain any
	if err := d.Decode(&plain); err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	if text, err = json.Marshal(printable(plain)); err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	return text, nil
}

// printable makes the texts in what a Decoder makes printable.
func printable(v any) any {
	switch v := v.(type) {
	case string:
		return configs.Printable(v)
	case []any:
		for i := range v {
			v[i] = printable(v[i])
		}
	case map[string]any:
		for k, x := range v {
			delete(v, k)
			v[configs.Printable(k)] = printable(x)
		}
	}
	return v
}
