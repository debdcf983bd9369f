package httptoken

import (
	"strings"
	"testing"
)

// The grammar lists what belongs into a token; Valid what does not.
//
// Without testify: who imports faultinject alone would find it in his go.sum.
func TestATokenHasTheCharactersOfTheGrammarAndNoOthers(t *testing.T) {
	if Valid("") {
		t.Error("a token has at least one character")
	}
	for c := range 256 {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		want := letter || digit || strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
		if got := Valid("x" + string([]byte{byte(c)}) + "y"); got != want {
			t.Errorf("Valid with %q is %t", byte(c), got)
		}
	}
}
