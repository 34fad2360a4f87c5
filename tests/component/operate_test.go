package component

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// A saga whose stock was taken away behind its back cannot go on; a person decides.
func TestStuckSagaIsOperated(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	i.SetFaults("carrier", `{"latency":"1s"}`)
	id := i.Place("pm_ok", "MUG-01")
	inStep(t, i, id, "book shipment")
	saga := i.SagaOf(id)
	early := i.Do(http.MethodPost, "/v1/sagas/"+saga.ID+"/retry", "")
	require.Equal(t, http.StatusConflict, early.Status, early.Body)

	payload, err := json.Marshal(map[string]any{"order_id": id, "lines": []map[string]any{{"sku": "MUG-01", "quantity": 1}}})
	require.NoError(t, err)
	_, _, err = producer(t, i).SendMessage(&sarama.ProducerMessage{
		Topic: i.Topic("commands.inventory"), Key: sarama.StringEncoder(id), Value: sarama.ByteEncoder(payload),
		Headers: []sarama.RecordHeader{{Key: []byte("ce_id"), Value: []byte("thief")}, {Key: []byte("ce_type"), Value: []byte("ReleaseStock")}},
	})
	require.NoError(t, err)
	saga = eventually(t, i, id, "stuck")
	require.Equal(t, "in_progress", saga.Statuses()["take stock out"])
	output, code := run(t, nil, "sagas", "retry", saga.ID, "--url", i.URL)
	require.Zero(t, code, output)
	kittest.Eventually(t, func() error {
		if s := i.Saga(saga.ID); s.Steps[4].Attempts < 2 {
			return fmt.Errorf("attempts: %d", s.Steps[4].Attempts)
		}
		return nil
	})
	require.Equal(t, "stuck", i.Saga(saga.ID).Status, "asking again does not help")
	for _, body := range []string{`{}`, `{"reason":" "}`} {
		require.Equal(t, http.StatusUnprocessableEntity, i.Do(http.MethodPost, "/v1/sagas/"+saga.ID+"/resolve", body).Status)
	}
	output, code = run(t, nil, "sagas", "resolve", saga.ID, "--reason", "sent it from another house", "--url", i.URL)
	require.Zero(t, code, output)
	require.Equal(t, "confirmed", i.Decided(id).Status)
	eventually(t, i, id, "completed")
	history := kittest.Column(t, kittest.OpenDB(t, i.DSN()), `SELECT type || ' by ' || (payload->>'by') || COALESCE(': ' || (payload->>'reason'), '')
		FROM events WHERE stream = 'sagas/' || $1 AND payload->>'by' IS NOT NULL ORDER BY version`, saga.ID)
	require.Equal(t, []string{"saga.step-retried by guest", "saga.resolved by guest: sent it from another house"}, history)
	late := i.Do(http.MethodPost, "/v1/sagas/"+saga.ID+"/skip", `{"reason":"r"}`)
	require.Equal(t, http.StatusConflict, late.Status, late.Body)
	require.Equal(t, http.StatusNotFound, i.Do(http.MethodPost, "/v1/sagas/01980000-0000-7000-8000-000000000000/retry", "").Status)
}

// The demo stops the payment provider in the middle, and the invariants hold all the same.
func TestTheDemosChaos(t *testing.T) {
	kittest.Long(t)
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	output, code := run(t, nil, "demo", "--orders", "60", "--chaos", "--json", "--url", i.URL)
	require.Zero(t, code, output)
	var result struct {
		Books string
		Chaos []struct {
			At   float64
			What string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(output), &result), output)
	require.Equal(t, "balanced", result.Books)
	require.Contains(t, fmt.Sprint(result.Chaos), "breaker is open")
	require.Contains(t, fmt.Sprint(result.Chaos), "works again")
}
