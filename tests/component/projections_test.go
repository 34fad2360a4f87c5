package component_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/tests/harness"
)

// Read models are rebuilt from the event store while orders go on; whatever was wrong in them is right afterwards.
func TestReadModelsAreRebuiltWhileTheServiceRuns(t *testing.T) {
	if kittest.External() != "" {
		t.Skip("needs the database and the settings of the service")
	}
	t.Parallel()
	w := harness.NewEnvironment(t)
	i := w.Start()
	db := kittest.OpenDB(t, i.DSN())
	i.Stock(1000, "BOOK-1")
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
				if response, err := i.Try("POST", "/v1/orders", harness.OrderBody("pm_ok", "BOOK-1")); err != nil || response.Status != 202 {
					t.Errorf("%v %v", response, err)
				}
			}
		}
	}()
	for _, name := range []string{"orders", "stock", "sagas"} {
		out, err := w.Command("projections", "rebuild", name).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), name+": rebuilt from ")
	}
	close(stop)
	require.Positive(t, <-done)
	i.Consistent()
	_, err := db.Exec(`DELETE FROM order_view; UPDATE stock_view SET on_hand = on_hand + 1; UPDATE saga_instances SET status = 'running'`)
	require.NoError(t, err)
	for _, name := range []string{"orders", "stock", "sagas"} {
		out, err := w.Command("projections", "rebuild", name).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	i.Consistent()
	out, err := w.Command("projections", "rebuild", "nothing").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), `there is no projection "nothing"; there are orders, stock, sagas`)
	out, err = w.Command("projections", "list").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "stock_view")
}

// One event that a projection cannot store stops neither the projection nor its rebuild.
func TestBadEventStopsNoProjection(t *testing.T) {
	if kittest.External() != "" {
		t.Skip("needs the database and the settings of the service")
	}
	t.Parallel()
	kittest.Long(t)
	w := harness.NewEnvironment(t)
	i := w.Start()
	i.ExpectFaults() // events that the service would not have recorded
	db := kittest.OpenDB(t, i.DSN())
	i.Stock(100, "BOOK-1")
	_, err := db.Exec(`ALTER TABLE order_view ADD CONSTRAINT poison CHECK (reason <> 'poison')`)
	require.NoError(t, err)

	// One whose reason has a NUL character, and one that can never be stored. They are stored, and relayed, as the service's own are.
	nul, broken := i.Decided(i.Place("pm_ok", "BOOK-1")).ID, i.Decided(i.Place("pm_ok", "BOOK-1")).ID
	send := func(id, reason string) {
		e := cqrs.Event{Body: order.Cancelled{OrderID: id, Reason: reason}, Category: order.Category, Key: id}
		e.Meta = cqrs.Meta{ID: "poison-" + id, Subject: "orders/" + id, Time: time.Now(), Version: 3}
		msg, err := messaging.NewMarshaler(order.Types, "/"+w.Prefix).Marshal(e)
		require.NoError(t, err)
		headers, err := json.Marshal(msg.Metadata)
		require.NoError(t, err)
		_, err = db.Exec(`INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
			VALUES ($1, 3, nextval('events_position'), 'order.cancelled', 1, $2, json_build_object('id', $3::text), now())`, e.Meta.Subject, string(msg.Payload), msg.UUID)
		require.NoError(t, err)
		topic := i.Topic("events.orders")
		_, err = db.Exec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ($1, $2, $3, $4, $5, $6)`,
			msg.UUID, topic, id, outbox.ShardOf(topic, id), []byte(msg.Payload), string(headers))
		require.NoError(t, err)
	}
	send(nul, "declined\x00here")
	send(broken, "poison")
	row := func(id string) (status, reason string) {
		require.NoError(t, db.QueryRow(`SELECT status, reason FROM order_view WHERE order_id = $1`, id).Scan(&status, &reason))
		return status, reason
	}
	kittest.Eventually(t, func() error {
		if status, reason := row(nul); status != "cancelled" || reason != "declined\uFFFDhere" {
			return fmt.Errorf("%s %q", status, reason)
		}
		return nil
	})
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "BOOK-1")).Status, "the projection goes on")
	kittest.Eventually(t, func() error {
		if n := kittest.Column(t, db, `SELECT message_id FROM dead_letters WHERE consumer LIKE '%.projection.orders'`); len(n) != 1 {
			return fmt.Errorf("%d dead letters: %s", len(n), n)
		}
		return nil
	})

	_, err = db.Exec(`DELETE FROM order_view`)
	require.NoError(t, err)
	for range 2 {
		out, err := w.Command("projections", "rebuild", "orders").CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "orders: 1 events cannot be processed and are dead letters")
	}
	status, reason := row(nul)
	require.Equal(t, "cancelled declined\uFFFDhere", status+" "+reason)
	status, _ = row(broken)
	require.Equal(t, "confirmed", status)
	out, err := w.Command("projections", "list").CombinedOutput()
	require.NoError(t, err)
	require.Regexp(t, `(?m)^orders .*dead letters: 1$`, string(out), "one for the event, however often it failed")
}
