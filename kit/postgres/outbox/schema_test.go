package outbox

import (
	"encoding/json"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestHeadersAreAnObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		headers := message.Metadata(rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "headers"))
		var read message.Metadata
		require.NoError(t, json.Unmarshal([]byte(object(headers)), &read))
		require.Equal(t, headers, read)
	})
}
