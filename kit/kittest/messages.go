package kittest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// Publish sends an event of an external service to a topic, with the headers of CloudEvents and a JSON payload, and waits until it is acknowledged. Prefix is
// the topic prefix of the external service, as a setting like AIRLINE_TOPICS has it, and category the type of its aggregates.
func (i *Instance) Publish(prefix, category, key, eventType, payload string) {
	i.t.Helper()
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	p, err := sarama.NewSyncProducer(i.Brokers(), config)
	require.NoError(i.t, err)
	defer p.Close() // the message is already acknowledged
	header := func(name, value string) sarama.RecordHeader {
		return sarama.RecordHeader{Key: []byte(name), Value: []byte(value)}
	}
	m := &sarama.ProducerMessage{
		Topic: prefix + ".events." + category, Key: sarama.StringEncoder(key), Value: sarama.StringEncoder(payload), Headers: []sarama.RecordHeader{
			header("ce_specversion", "1.0"), header("ce_id", uuid.NewString()), header("ce_type", eventType), header("ce_source", "/"+prefix),
		},
	}
	Eventually(i.t, func() error { // a new topic needs a moment
		_, _, err := p.SendMessage(m)
		return err
	})
}

// Bearer returns the header with a token for a subject, as a name and a value, for requests to instances of an environment with AUTH_SECRET.
func (w *Environment) Bearer(subject, role string) []string {
	w.t.Helper()
	output, err := w.Command("token", "--subject", subject, "--role", role).Output()
	require.NoError(w.t, err)
	return []string{"Authorization", "Bearer " + strings.TrimSpace(string(output))}
}

// Joined waits until each consumer group of the broker is stable and has this number of members. An instance that is killed while it joins a group of the
// embedded Kafka remains a member for ever, because kfake sets no session timer if it cannot send the response to the join.
func (i *Instance) Joined(members int) {
	i.t.Helper()
	admin, err := sarama.NewClusterAdmin(i.Brokers(), sarama.NewConfig())
	require.NoError(i.t, err)
	defer admin.Close()
	Eventually(i.t, func() error {
		groups, err := admin.ListConsumerGroups()
		if err != nil {
			return err
		}
		described, err := admin.DescribeConsumerGroups(slices.Collect(maps.Keys(groups)))
		if err != nil {
			return err
		}
		if len(described) == 0 {
			return errors.New("there are no consumer groups yet")
		}
		for _, g := range described {
			if g.State != "Stable" || len(g.Members) != members {
				return fmt.Errorf("the group %s is %s and has %d members", g.GroupId, g.State, len(g.Members))
			}
		}
		return nil
	})
}
