package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// An ending that is not in the list has no series until it happens, and rate() does not see
// its first.
func TestEndingsAreAll(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "endings.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var constants []string
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "ending" {
			word, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			constants = append(constants, word)
		}
		return true
	})
	if len(constants) < 20 || !slices.Equal(constants, endings) {
		t.Errorf("the constants are %q, and endings are %q", constants, endings)
	}
}
