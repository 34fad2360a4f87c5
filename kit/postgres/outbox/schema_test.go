package outbox

import (
	"encoding/json"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// A message without metadata has no headers. The column is still an object, which Debezium and operators read.
func TestHeadersAreAnObject(t *testing.T) {
	for _, headers := range []message.Metadata{nil, {}, {"trace": "a \"quoted\" <value> \u00e4"}} {
		msg := message.NewMessage("id", nil)
		msg.Metadata = headers
		query, err := Schema{}.InsertQuery("topic", message.Messages{msg})
		require.NoError(t, err)
		stored := query.Args[5].([][]byte)[0]
		require.Equal(t, byte('{'), stored[0])
		read := message.Metadata{}
		require.NoError(t, json.Unmarshal(stored, &read))
		require.Len(t, read, len(headers))
		require.Equal(t, headers["trace"], read["trace"])
	}
}
