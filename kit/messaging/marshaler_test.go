package messaging

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

type noted struct {
	Text string `json:"text"`
}

func (n noted) Key() string { return "key-1" }

var marshaler = NewMarshaler(aggregate.TypesOf(aggregate.NewType[noted]("note.noted")), "/notes")

func TestHeadersAreThoseOfCloudEvents(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	msg, err := marshaler.Marshal(cqrs.Event{Body: noted{"hello"}, Category: "notes", Key: "key-1", Meta: cqrs.Meta{
		ID: "m-1", Subject: "notes/1", Version: 3, Time: at, Correlation: "c", Causation: "b", SagaID: "s", SagaStep: "a step", Branch: cqrs.BranchAction,
		Trace: map[string]string{"traceparent": "00-1-2-01"},
	}})
	require.NoError(t, err)
	require.JSONEq(t, `{"text":"hello"}`, string(msg.Payload))
	require.Equal(t, "m-1", msg.UUID)
	require.Equal(t, message.Metadata{
		"ce_specversion": "1.0", "ce_id": "m-1", "ce_type": "note.noted", "ce_source": "/notes", "ce_subject": "notes/1", "ce_sequence": "3",
		"ce_time": "2026-01-02T03:04:05.000006Z", "ce_partitionkey": "key-1", "content-type": "application/json", "schema_version": "1",
		"correlation_id": "c", "causation_id": "b", "millrace_saga_id": "s", "millrace_saga_step": "a step", "millrace_saga_branch": "do", "traceparent": "00-1-2-01",
	}, msg.Metadata)
	var back noted
	require.NoError(t, marshaler.Unmarshal(msg, &back))
	require.Equal(t, noted{"hello"}, back)
}

// A message arrives with the metadata with which it was sent.
func TestMetadataSurvivesTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z0-9-]{1,12}`)
		moment := func(name string) time.Time {
			return time.Unix(rapid.Int64Range(1, 4e9).Draw(t, name), rapid.Int64Range(0, 999_999_999).Draw(t, name)).UTC()
		}
		want := cqrs.Meta{
			ID: text.Draw(t, "id"), Type: "note.noted", Schema: 1, Subject: text.Draw(t, "subject"), Version: rapid.IntRange(0, 1e6).Draw(t, "version"),
			Time: moment("time"), Correlation: text.Draw(t, "correlation"), Causation: text.Draw(t, "causation"), ExpiresAt: moment("expires"),
		}
		if rapid.Bool().Draw(t, "saga") {
			want.SagaID, want.SagaStep, want.Branch = text.Draw(t, "saga id"), text.Draw(t, "step"), rapid.SampledFrom([]cqrs.Branch{cqrs.BranchAction, cqrs.BranchCompensation}).Draw(t, "branch")
		}
		msg, err := marshaler.Marshal(cqrs.Event{Body: noted{}, Meta: want})
		require.NoError(t, err)
		got, err := (&Router{}).metaOf("consumer", msg)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("ce_time", "soon", []byte(`{}`))
	f.Add("millrace_saga_branch", "do", []byte(`{"text":1}`))
	f.Add("schema_version", "99999999999999999999", []byte(``))
	f.Fuzz(func(t *testing.T, name, value string, payload []byte) {
		msg := message.NewMessage("m", payload)
		msg.Metadata = message.Metadata{"ce_id": "m", "ce_type": "note.noted", name: value}
		if _, err := (&Router{}).metaOf("consumer", msg); err != nil {
			require.Equal(t, cqrs.KindPermanent, cqrs.KindOf(err), "%v", err)
		}
		var back noted
		if err := marshaler.Unmarshal(msg, &back); err != nil {
			require.Equal(t, cqrs.KindPermanent, cqrs.KindOf(err), "%v", err)
		}
	})
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	for attempt := 1; attempt < 40; attempt++ {
		whole := min(50*time.Millisecond<<min(attempt-1, 12), 10*time.Second)
		for range 20 {
			pause := backoff(attempt)
			require.GreaterOrEqual(t, pause, whole/2)
			require.LessOrEqual(t, pause, whole)
		}
	}
}
