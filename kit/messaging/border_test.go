package messaging

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// checkPayload finds text that the database cannot store, and its error names the field.
func TestPayloadTextFromOutside(t *testing.T) {
	for payload, want := range map[string]string{
		`{"text":"a\u0000b"}`:                      "text: contains a NUL character",
		`{"lines":[{"sku":"a"},{"sku":"\u0000"}]}`: "lines[1].sku: contains a NUL character",
		`{"a\u0000":1}`:                            `name of field "a\x00": contains a NUL character`,
		"{\"text\":\"\xff\"}":                      "payload: is not valid UTF-8",
		`{"text":"a\\u0000b"}`:                     "",
		`{"text":"ü"}`:                             "",
	} {
		err := marshaler.checkPayload(message.NewMessage("m", []byte(payload)), noted{})
		if want == "" {
			require.NoError(t, err, payload)
			continue
		}
		require.EqualError(t, err, want)
		require.Equal(t, cqrs.KindPermanent, cqrs.KindOf(err))
	}
}

// Saga headers are used on this service's own topics and on topics of a service that takes part in its sagas, under their former and current names.
func TestInternalHeadersOfUnknownProducersAreIgnored(t *testing.T) {
	r := &Router{external: map[string]bool{"events of a stranger": true, "answers": true}, remote: map[string]bool{"answers": true}, sagaGroups: map[string]bool{"answers": true}}
	for _, names := range [][4]string{{"saga_id", "saga_step", "saga_branch", "expires_at"}, {cqrs.HeaderSagaID, cqrs.HeaderSagaStep, cqrs.HeaderBranch, cqrs.HeaderExpires}} {
		for consumer, counts := range map[string]bool{"own": true, "answers": true, "events of a stranger": false} {
			msg := message.NewMessage("m", nil)
			msg.Metadata = message.Metadata{
				"ce_id": "m", "ce_type": "note.noted", "ce_source": "/x", names[0]: "s", names[1]: "step", names[2]: "do", names[3]: "2026-01-02T03:04:05Z",
			}
			r.renameHeaders(consumer, msg)
			meta, err := r.metaOf(consumer, msg)
			require.NoError(t, err)
			require.Equal(t, counts, meta.SagaID == "s" && meta.SagaStep == "step" && meta.Branch == cqrs.BranchAction && !meta.ExpiresAt.IsZero(), consumer)
			require.Equal(t, !counts, meta.SagaID == "" && meta.SagaStep == "" && meta.Branch == "" && meta.ExpiresAt.IsZero(), consumer)
			require.Equal(t, consumer != "own", meta.Source == "/x", consumer)
		}
	}
}
