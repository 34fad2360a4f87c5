package component

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/adapters/warehousepb"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// What another service says is taken up once, however often it comes; what it says beside that is none of our business, and what cannot
// be understood is kept.
func TestConsumerOfAnotherService(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	topic := i.Topic("warehouse.events.deliveries")
	arrived := func(id, name, payload string) *sarama.ProducerMessage {
		return &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder("NEW-1"), Value: sarama.StringEncoder(payload), Headers: []sarama.RecordHeader{
			{Key: []byte("ce_specversion"), Value: []byte("1.0")}, {Key: []byte("ce_id"), Value: []byte(id)},
			{Key: []byte("ce_type"), Value: []byte(name)}, {Key: []byte("ce_source"), Value: []byte("/warehouse")},
		}}
	}
	p := producer(t, i)
	payload, err := proto.Marshal(&warehousepb.DeliveryArrived{Sku: "NEW-1", Quantity: 100})
	require.NoError(t, err)
	inProtobuf := arrived("w5", "delivery.arrived", string(payload))
	inProtobuf.Headers = append(inProtobuf.Headers, sarama.RecordHeader{Key: []byte("content-type"), Value: []byte("application/protobuf")})
	said := []*sarama.ProducerMessage{
		arrived("w1", "delivery.announced", `{"ship":"Ever Given"}`),
		arrived("w2", "delivery.arrived", `{"sku":"NEW-1","quantity":7,"of_no_interest":true}`),
		arrived("w2", "delivery.arrived", `{"sku":"NEW-1","quantity":7}`),
		arrived("w3", "delivery.arrived", `{"sku":"NEW-1","quantity":1}`),
		inProtobuf,
		arrived("w4", "delivery.arrived", `{"sku":"NEW-1","quantity":"many"}`),
	}
	kittest.Eventually(t, func() error { return p.SendMessages(said) }) // the topic was made just now
	kittest.Eventually(t, func() error {
		var stock struct {
			OnHand int64 `json:"on_hand"`
		}
		status, body, err := i.Get("/v1/stock/NEW-1")
		if err == nil && status == http.StatusOK {
			err = json.Unmarshal([]byte(body), &stock)
		}
		if err == nil && stock.OnHand != 108 {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	kittest.Eventually(t, func() error {
		deadLetters := i.Do(http.MethodGet, "/v1/dead-letters", "").Body
		var list struct {
			Letters []struct {
				MessageID string `json:"message_id"`
			} `json:"dead_letters"`
		}
		if err := json.Unmarshal([]byte(deadLetters), &list); err != nil {
			return err
		}
		if len(list.Letters) != 1 || list.Letters[0].MessageID != "w4" {
			return fmt.Errorf("%s", deadLetters)
		}
		return nil
	})
	i.Place("pm_ok", "NEW-1")
	require.Contains(t, i.Do(http.MethodGet, "/asyncapi.yaml", "").Body, topic)
}
