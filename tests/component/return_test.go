package component

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	pgtopics "github.com/millrace/millrace/kit/postgres/topics"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/orderreturn"
	"github.com/millrace/millrace/tests/harness"
)

// parcel is the warehouse's event of the parcel of a returned order, as a service with another template would send it.
func parcel(i *harness.Instance, orderID, messageID string) *sarama.ProducerMessage {
	return &sarama.ProducerMessage{
		Topic: i.Topic("warehouse.events.parcels"), Key: sarama.StringEncoder(orderID), Value: sarama.StringEncoder(`{"parcel_number":"R-` + orderID + `","weight":7}`),
		Headers: []sarama.RecordHeader{
			{Key: []byte("ce_specversion"), Value: []byte("1.0")}, {Key: []byte("ce_id"), Value: []byte(messageID)},
			{Key: []byte("ce_type"), Value: []byte("parcel.arrived")}, {Key: []byte("ce_source"), Value: []byte("/warehouse")},
		},
	}
}

// returning is the id of the saga of an order's return, which waits at a step.
func returning(t *testing.T, i *harness.Instance, orderID, step string) string {
	t.Helper()
	id := saga.ID(orderreturn.Name, orderID)
	kittest.Eventually(t, func() error {
		status, body, err := i.Get("/v1/sagas/" + id)
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s: %w", status, body, err)
		}
		if status := i.Saga(id).Statuses()[step]; status != "in_progress" {
			return fmt.Errorf("%s is %s", step, status)
		}
		return nil
	})
	return id
}

// warehouse sends messages as the warehouse does, by Kafka or by the tables in its place.
func warehouse(t *testing.T, i *harness.Instance) func(...*sarama.ProducerMessage) {
	t.Helper()
	if i.Environment().Setting("BROKER") != "postgres" {
		p := producer(t, i)
		return func(records ...*sarama.ProducerMessage) { require.NoError(t, p.SendMessages(records)) }
	}
	publisher, err := pgtopics.NewPublisher(sqlx.NewDb(kittest.OpenDB(t, i.DSN()), "pgx"), watermill.NopLogger{})
	require.NoError(t, err)
	return func(records ...*sarama.ProducerMessage) {
		for _, record := range records {
			payload, err := record.Value.Encode()
			require.NoError(t, err)
			msg := message.NewMessage("", payload)
			for _, h := range record.Headers {
				msg.Metadata[string(h.Key)] = string(h.Value)
			}
			msg.UUID = msg.Metadata["ce_id"]
			require.NoError(t, publisher.Publish(record.Topic, msg))
		}
	}
}

// Two instances, and the warehouse's topic. Each return is asked for, reported and inspected at one or the other.
func TestReturn(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	testReturn(t)
}

func TestReturnWithPostgresInKafkasPlace(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	testReturn(t, "BROKER=postgres", "KAFKA_BROKERS=")
}

func testReturn(t *testing.T, settings ...string) {
	t.Helper()
	w := harness.NewEnvironment(t, append([]string{"LOAD_DISTRIBUTION=instances"}, settings...)...)
	i, other := w.Host(), w.Start()
	i.Stock(1000, "MUG-01", "TEE-02")
	send := warehouse(t, i)
	confirmed := func() string {
		id := i.Place("pm_ok", "MUG-01", "TEE-02")
		require.Equal(t, "confirmed", i.Decided(id).Status)
		return id
	}
	ask := func(id, lines string) {
		t.Helper()
		response := other.Do(http.MethodPost, "/v1/orders/"+id+"/return", `{"lines":[`+lines+`]}`)
		require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	}
	ended := func(id, status string) (o struct {
		Return struct {
			Status, Reason string
			Refund         int64
		}
	}) {
		t.Helper()
		kittest.Eventually(t, func() error {
			i.Do(http.MethodGet, "/v1/orders/"+id, "").JSON(t, &o)
			if o.Return.Status != status {
				return fmt.Errorf("the return is %q", o.Return.Status)
			}
			return nil
		})
		return o
	}
	inspect := func(id, payload string) {
		t.Helper()
		response := i.Do(http.MethodPost, "/v1/sagas/"+returning(t, other, id, "inspect goods")+"/signals/inspection", payload)
		require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	}
	const both = `{"sku":"MUG-01","quantity":1},{"sku":"TEE-02","quantity":1,"replace":true}`

	t.Run("refunded and replaced", func(t *testing.T) {
		id := confirmed()
		ask(id, both)
		ask(id, both)
		require.Equal(t, http.StatusConflict, i.Do(http.MethodPost, "/v1/orders/"+id+"/return", `{"lines":[{"sku":"MUG-01","quantity":1}]}`).Status)
		returning(t, i, id, "wait for parcel")
		send(parcel(i, id, "p1"), parcel(i, id, "p1"))
		sagaID := returning(t, i, id, "inspect goods")
		require.Equal(t, http.StatusUnprocessableEntity, i.Do(http.MethodPost, "/v1/sagas/"+sagaID+"/signals/inspection", `{"accepted":false}`).Status, "a rejection needs a reason")
		inspect(id, `{"accepted":true,"damaged":false}`)
		require.EqualValues(t, 1000, ended(id, "returned").Return.Refund)
		require.Equal(t, "completed", i.Saga(sagaID).Statuses()["ship replacement"])
		require.Equal(t, http.StatusConflict, i.Do(http.MethodPost, "/v1/sagas/"+sagaID+"/signals/inspection", `{"accepted":true}`).Status)
	})
	t.Run("the parcel is faster than the request", func(t *testing.T) {
		id := confirmed()
		send(parcel(i, id, "p2"))
		ask(id, both)
		inspect(id, `{"accepted":true,"damaged":true}`)
		ended(id, "returned")
	})
	t.Run("not accepted", func(t *testing.T) {
		id := confirmed()
		ask(id, both)
		send(parcel(i, id, "p3"))
		inspect(id, `{"accepted":false,"note":"a brick"}`)
		require.Equal(t, "a brick", ended(id, "rejected").Return.Reason)
	})
	t.Run("never arrives", func(t *testing.T) {
		id := confirmed()
		ask(id, both)
		sagaID := returning(t, i, id, "wait for parcel")
		db := kittest.OpenDB(t, i.DSN())
		later := func() { // the time that the saga waits for comes
			kittest.Eventually(t, func() error {
				result, err := db.ExecContext(t.Context(), `UPDATE outbox SET due_at = now() WHERE due_at > now() + interval '1 day'`)
				if err != nil {
					return err
				}
				if n, _ := result.RowsAffected(); n != 1 {
					return fmt.Errorf("%d timers", n)
				}
				return nil
			})
		}
		later()
		kittest.Eventually(t, func() error {
			if body := i.Do(http.MethodGet, "/v1/orders/"+id+"/history", "").Body; !strings.Contains(body, "order.return-reminded") {
				return fmt.Errorf("no reminder: %s", body)
			}
			return nil
		})
		later()
		require.Equal(t, "wait for parcel: no answer in time", ended(id, "rejected").Return.Reason)
		require.Equal(t, "compensated", i.Saga(sagaID).Statuses()["reserve replacement"])
	})
	report := i.Consistent()
	require.Equal(t, 4, report.Returns)
}

func TestOnlyConfirmedOrdersAreReturned(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	i.Stock(1000, "MUG-01")
	id := i.Place("pm_declined", "MUG-01")
	require.Equal(t, "cancelled", i.Decided(id).Status)
	response := i.Do(http.MethodPost, "/v1/orders/"+id+"/return", `{"lines":[{"sku":"MUG-01","quantity":1}]}`)
	require.Equal(t, http.StatusConflict, response.Status)
	require.Contains(t, response.Body, "only a confirmed order can be returned")
	require.Equal(t, http.StatusNotFound, i.Do(http.MethodPost, "/v1/orders/0198c0de-0000-7000-8000-000000000001/return", `{"lines":[{"sku":"MUG-01","quantity":1}]}`).Status)
}
