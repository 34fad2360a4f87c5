package deadletter_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/deadletter"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// A page of a hundred large dead letters takes little memory; one dead letter is shown in full.
func TestListOfLargeDeadLettersIsSmall(t *testing.T) {
	db, _ := kittest.Database(t)
	letters, large := deadletter.New(db), strings.Repeat("x", 1<<20)
	m := cqrs.Received{
		Key: cqrs.MessageKey{Consumer: "c", Key: large}, Topic: "topic", ID: large, Headers: map[string]string{cqrs.HeaderKey: large}, Payload: []byte(large),
	}
	require.NoError(t, letters.Keep(t.Context(), m, large))
	m.ID, m.Headers = "2", map[string]string{"name": "value"}
	require.NoError(t, letters.Keep(t.Context(), m, "reason"))
	list, err := letters.List(t.Context(), cqrs.Newest, 100)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "reason", list[0].Reason)
	require.Equal(t, map[string]string{"name": "value"}, list[0].Headers)
	for _, l := range list {
		require.Less(t, len(l.Payload)+len(l.Reason)+len(l.Headers[cqrs.HeaderKey])+len(l.Key)+len(l.MessageID), 50_000)
		whole, err := letters.ByID(t.Context(), l.ID)
		require.NoError(t, err)
		require.Len(t, whole.Payload, len(large))
	}
}
