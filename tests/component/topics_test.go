package component

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
	"github.com/millrace/millrace/tests/harness"
)

func admin(t *testing.T, i *harness.Instance) sarama.ClusterAdmin {
	t.Helper()
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	a, err := sarama.NewClusterAdmin(i.Brokers(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// toTopic puts a message for a topic into an instance's outbox.
func toTopic(t *testing.T, i *harness.Instance, topic string) {
	t.Helper()
	_, err := kittest.OpenDB(t, i.DSN()).Exec(`INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ($1, $2, 'k', $3, '{}', '{}')`,
		uuid.NewString(), topic, outbox.ShardOf(topic, "k"))
	require.NoError(t, err)
}

// suspendedTopics are those that the API shows, with their reasons.
func suspendedTopics(i *harness.Instance) (map[string]string, error) {
	_, body, err := i.Get("/v1/outbox")
	if err != nil {
		return nil, err
	}
	var backlog struct {
		Topics []struct {
			Topic  string `json:"topic"`
			Reason string `json:"reason"`
		} `json:"suspended_topics"`
	}
	if err := json.Unmarshal([]byte(body), &backlog); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	topics := map[string]string{}
	for _, t := range backlog.Topics {
		topics[t.Topic] = t.Reason
	}
	return topics, nil
}

// What sagas record is published only if somebody asked for it: nobody reads it otherwise, and it would be a third of all messages.
func TestSagaEventsArePublishedOnRequest(t *testing.T) {
	for setting, wanted := range map[string]bool{"off": false, "on": true} {
		t.Run(setting, func(t *testing.T) {
			i := harness.NewEnvironment(t, "PUBLISH_SAGA_EVENTS="+setting).Start()
			i.Stock(10, "MUG-01")
			i.Place("pm_ok", "MUG-01")
			i.Consistent()
			topics, err := admin(t, i).ListTopics()
			require.NoError(t, err)
			topic := i.Topic("events.sagas")
			require.Equal(t, wanted, topics[topic].NumPartitions > 0)
			if !wanted {
				return
			}
			var types []string
			require.NoError(t, kafka.ReadAll(t.Context(), kafka.Config{Brokers: i.Brokers()}, []string{topic}, func(_ string, msg *message.Message) error {
				types = append(types, msg.Metadata["ce_type"])
				return nil
			}))
			require.Equal(t, "saga.started", types[0])
			require.Equal(t, "saga.completed", types[len(types)-1])
		})
	}
}

// A topic that never existed is suspended, which /readyz, /v1/outbox, the page and the metric show. Orders are confirmed meanwhile. When
// the topic is created, its messages arrive.
func TestUnknownTopicIsSuspended(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	missing := i.Topic("never.existed")
	toTopic(t, i, missing)
	kittest.Eventually(t, func() error {
		topics, err := suspendedTopics(i)
		if err == nil && topics[missing] == "" {
			err = fmt.Errorf("%v", topics)
		}
		return err
	})
	for range 20 {
		i.Place("pm_ok", "MUG-01")
	}
	id := i.Place("pm_ok", "MUG-01")
	require.Equal(t, "confirmed", i.Decided(id).Status)
	for path, want := range map[string][]string{"/readyz": {"degraded", missing}, "/metrics": {"\nmillrace_outbox_suspended_topics 1\n"}} {
		kittest.Eventually(t, func() error { // their figures are made once a second
			status, body, err := i.Get(path)
			for _, text := range want {
				if err == nil && (status != http.StatusOK || !strings.Contains(body, text)) {
					err = fmt.Errorf("%s: %d without %q: %s", path, status, text, body)
				}
			}
			return err
		})
	}
	require.Contains(t, i.Do(http.MethodGet, "/ui/", "").Body, missing)
	breakers := i.Do(http.MethodGet, "/v1/breakers", "").Body
	require.NotContains(t, strings.ReplaceAll(breakers, " ", ""), `"state":"open"`, "the broker is well")
	require.NoError(t, admin(t, i).CreateTopic(missing, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false))
	noneSuspended(t, i)
	i.Consistent()
}

func noneSuspended(t *testing.T, i *harness.Instance) {
	t.Helper()
	kittest.Eventually(t, func() error {
		topics, err := suspendedTopics(i)
		if err == nil && len(topics) > 0 {
			err = fmt.Errorf("%v", topics)
		}
		return err
	})
}

// A deleted topic of this service is created again, with its partitions, and its consumers read it again.
func TestDeletedTopicIsRecreated(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	for range 5 {
		i.Decided(i.Place("pm_ok", "MUG-01"))
	}
	kittest.Eventually(t, func() error { // nothing is on its way
		_, body, err := i.Get("/v1/outbox")
		if err == nil && !strings.Contains(body, `"pending":0,`) {
			err = errors.New(body)
		}
		return err
	})
	kafka := admin(t, i)
	topic := i.Topic("commands.shipments")
	require.NoError(t, kafka.DeleteTopic(topic))
	var ids []string
	for range 5 {
		ids = append(ids, i.Place("pm_ok", "MUG-01"))
	}
	declined := i.Place("pm_declined", "MUG-01")
	require.Equal(t, "cancelled", i.Decided(declined).Status, "other topics go on")
	for _, id := range ids {
		i.Decided(id) // confirmed, or cancelled by a deadline
	}
	noneSuspended(t, i)
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	kittest.Eventually(t, func() error { // commands that reach the own instance don't need the topic, so orders can be faster than its check
		found, err := kafka.DescribeTopics([]string{topic})
		if err == nil && len(found[0].Partitions) != 4 {
			err = fmt.Errorf("%d partitions (%w), want 4, of KAFKA_PARTITIONS", len(found[0].Partitions), found[0].Err)
		}
		return err
	})
}

// A topic of another service that is deleted is not created again by this one. /readyz and the page name it, and consumers of other topics go
// on. When its owner creates it again, a saga that waits for an event in it goes on.
func TestDeletedTopicOfAnotherServiceIsWaitedFor(t *testing.T) {
	t.Parallel()
	i := harness.NewEnvironment(t).Start()
	i.Stock(1000, "MUG-01")
	id := i.Place("pm_ok", "MUG-01")
	i.Decided(id)
	kafka, topic := admin(t, i), i.Topic("warehouse.events.parcels")
	require.NoError(t, kafka.DeleteTopic(topic))
	namesMissing(t, i, topic)
	response := i.Do(http.MethodPost, "/v1/orders/"+id+"/return", `{"lines":[{"sku":"MUG-01","quantity":1,"replace":true}]}`)
	require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	returning(t, i, id, "wait for parcel")
	require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	found, err := kafka.DescribeTopics([]string{topic})
	require.NoError(t, err)
	require.Equal(t, sarama.ErrUnknownTopicOrPartition, found[0].Err, "its owner creates it")

	require.NoError(t, kafka.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false))
	p := producer(t, i)
	kittest.Eventually(t, func() error { return p.SendMessages([]*sarama.ProducerMessage{parcel(i, id, "p1")}) })
	sagaID := returning(t, i, id, "inspect goods")
	noneMissing(t, i)
	response = i.Do(http.MethodPost, "/v1/sagas/"+sagaID+"/signals/inspection", `{"accepted":true}`)
	require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	require.Equal(t, 1, i.Consistent().Returns)
}

// namesMissing waits until an instance is degraded because it cannot consume a topic of another service.
func namesMissing(t *testing.T, i *harness.Instance, topic string) {
	t.Helper()
	for path, want := range map[string][]string{"/readyz": {"degraded", "topic " + topic + " of an external service does not exist"}, "/ui/": {"topic " + topic}} {
		kittest.Eventually(t, func() error {
			status, body, err := i.Get(path)
			for _, text := range want {
				if err == nil && (status != http.StatusOK || !strings.Contains(body, text)) {
					err = fmt.Errorf("%s: %d without %q: %s", path, status, text, body)
				}
			}
			return err
		})
	}
}

func noneMissing(t *testing.T, i *harness.Instance) {
	t.Helper()
	kittest.Eventually(t, func() error {
		status, body, err := i.Get("/readyz")
		if err == nil && (status != http.StatusOK || strings.Contains(body, "degraded")) {
			err = fmt.Errorf("%d: %s", status, body)
		}
		return err
	})
}
