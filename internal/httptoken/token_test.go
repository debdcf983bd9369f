package httptoken

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The grammar lists what belongs into a token; Valid what does not.
func TestATokenHasTheCharactersOfTheGrammarAndNoOthers(t *testing.T) {
	require.False(t, Valid(""))
	for c := range 256 {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		want := letter || digit || strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
		require.Equal(t, want, Valid("x"+string([]byte{byte(c)})+"y"), "%q", c)
	}
}
