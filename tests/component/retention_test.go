package component

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// Ids of handled messages must be kept for longer than Kafka can deliver the messages again.
func TestRetentionShorterThanThatOfATopicIsRefused(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	brokers := kittest.Kafka(t)
	for ms, want := range map[string]string{
		"2592000000": "INBOX_RETENTION: 336h0m0s is shorter than topic T keeps messages (retention.ms: 720h0m0s)",
		"-1":         "INBOX_RETENTION: 336h0m0s is shorter than topic T keeps messages (retention.ms: for ever)",
		"604800000":  "",
	} {
		w := harness.NewEnvironment(t, "KAFKA_BROKERS="+strings.Join(brokers, ","))
		admin, err := sarama.NewClusterAdmin(brokers, sarama.NewConfig())
		require.NoError(t, err)
		topic := w.Prefix + ".events.payments"
		require.NoError(t, admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &ms}}, false))
		require.NoError(t, admin.Close())
		if want == "" {
			w.Start()
			continue
		}
		i := w.Launch()
		require.Equal(t, 1, i.Wait(), i.Output())
		require.Contains(t, i.Output(), strings.ReplaceAll(want, "topic T", "topic "+topic))
		code, _ := w.Start("INBOX_RETENTION=0").Terminate()
		require.Zero(t, code)
	}
}

// Another service's topic may keep messages for longer; a line says so.
func TestRetentionShorterThanThatOfAnotherServicesTopicIsSaid(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	brokers := kittest.Kafka(t)
	w := harness.NewEnvironment(t, "KAFKA_BROKERS="+strings.Join(brokers, ","))
	admin, err := sarama.NewClusterAdmin(brokers, sarama.NewConfig())
	require.NoError(t, err)
	warehouse, forever := w.Prefix+"-warehouse", "-1"
	require.NoError(t, admin.CreateTopic(warehouse+".events.deliveries", &sarama.TopicDetail{
		NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &forever},
	}, false))
	require.NoError(t, admin.Close())
	said := "keeps messages for longer than INBOX_RETENTION"
	i := w.Start("WAREHOUSE_TOPICS=" + warehouse)
	kittest.Eventually(t, func() error {
		if !strings.Contains(i.Output(), said) || !strings.Contains(i.Output(), warehouse+".events.deliveries") {
			return errors.New("nothing is said")
		}
		return nil
	})
	code, _ := i.Terminate()
	require.Zero(t, code)
	require.NotContains(t, w.Start("WAREHOUSE_TOPICS="+w.Prefix+"-nowhere").Output(), said)
}

// Three weeks pass while an order waits for the carrier. Tokens and idempotency keys expire, the saga's deadline has passed, and its
// compensations still find what was done.
func TestWeeksPass(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w := harness.NewEnvironment(t, "AUTH_SECRET="+secret, "RATE_LIMIT=0")
	sandbox := w.Sandbox()
	i := w.StartWith("COURIER_URL=")
	operator := func() []string { return []string{"Authorization", "Bearer " + token(t, "olga", "operator")} }
	old := operator()
	require.Equal(t, http.StatusAccepted, i.Do(http.MethodPost, "/v1/stock/MUG-01/receipts", `{"quantity":1000}`, old...).Status)
	first := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_declined", "MUG-01"), append(old, "Idempotency-Key", "k", "Prefer", "wait=20")...)
	require.Equal(t, http.StatusOK, first.Status, first.Body)
	again := i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_declined", "MUG-01"), append(old, "Idempotency-Key", "k")...)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	sandbox.SetFaults("carrier", `{"down":true}`)
	var order harness.Order
	i.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"), old...).JSON(t, &order)
	db := kittest.OpenDB(t, i.DSN())
	kittest.Eventually(t, func() error { // authorised, so that there is something to undo
		if n := kittest.Column(t, db, `SELECT type FROM events WHERE stream LIKE 'payments/%' AND type = 'payment.authorised'`); len(n) == 0 {
			return errors.New("not authorised yet")
		}
		return nil
	})
	require.NotEqual(t, "0", kittest.Column(t, db, `SELECT count(*)::text FROM inbox WHERE saga_id IS NULL`)[0])

	i.ClockAhead(21 * 24 * time.Hour)
	db = kittest.OpenDB(t, i.DSN()) // an embedded one has another port after a restart

	sandbox.SetFaults("carrier", `{"down":false}`) // a booking is undone too, because it may have taken effect
	require.Equal(t, http.StatusUnauthorized, i.Do(http.MethodGet, "/v1/orders", "", old...).Status, "the token has expired")
	kittest.Eventually(t, func() error {
		status := kittest.Column(t, db, `SELECT status || ' ' || reason FROM order_view WHERE order_id = $1`, order.ID)
		if len(status) == 0 || !strings.HasPrefix(status[0], "cancelled") {
			return fmt.Errorf("order: %v", status)
		}
		return nil
	})
	var ledger struct{ Held, Voided, Authorised int64 }
	sandbox.Do(http.MethodGet, "/v1/sandbox/payments", "").JSON(t, &ledger)
	require.Zero(t, ledger.Held)
	require.Equal(t, ledger.Authorised, ledger.Voided, "the authorisation was undone")
	require.Positive(t, ledger.Voided)
	kittest.Eventually(t, func() error { // the first sweep
		var removed string
		if removed = kittest.Column(t, db, `SELECT count(*)::text FROM idempotency_keys`)[0]; removed != "0" {
			return errors.New(removed + " idempotency keys")
		}
		return nil
	})
	require.Equal(t, []string{"0"}, kittest.Column(t, db, `SELECT count(*)::text FROM inbox WHERE received_at < now() + interval '1 day' AND saga_id IS NULL`))
}
