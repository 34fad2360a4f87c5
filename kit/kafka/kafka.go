// Package kafka connects a service to Apache Kafka: a batching producer for the outbox relay, a key-ordered subscriber for records in
// CloudEvents' form, the creation of topics, and security. Producer and subscriber do not fail when the broker is unavailable: they connect
// when they are used, and retry.
package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rcrowley/go-metrics"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kafka/keyordered"
)

// Config is the connection to the brokers.
type Config struct {
	Brokers []string

	// ClientID is the client id that brokers see.
	ClientID string

	// Instance identifies this instance. It is part of the ids of group members, by which groups assign the partitions with the same numbers of
	// all topics to one instance: messages of one key then come to one instance, on whichever topic.
	Instance string

	// Member is the host of this instance. Of the members of a group on one host, one works.
	Member MemberMetadata

	// InstanceID makes this a static member of its groups: an instance that restarts within the session timeout gets its partitions back at
	// once. It must differ between instances. Empty: a dynamic member, which hands its partitions over when it stops.
	InstanceID string

	// GroupBytes limits the records in flight of a group, and FetchBytes the bytes of one fetch of a partition. Default: 64 MiB and 256 KiB.
	GroupBytes int
	FetchBytes int32

	// Records converts records into messages. Default: CloudEvents.
	Records wkafka.Unmarshaler

	// Security must pass its Check.
	Security Security

	// Dial opens a connection to a broker, for example through a tunnel. It has three seconds. Nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// init turns off sarama's metrics of each record and request, which nothing reads. The kit has metrics of its own.
func init() { metrics.UseNilMetrics = true } //nolint:gochecknoinits // before any client is made

func (c Config) records() wkafka.Unmarshaler {
	if c.Records == nil {
		return CloudEvents{}
	}
	return c.Records
}

func (c Config) sarama() *sarama.Config {
	s := sarama.NewConfig()
	s.ClientID = c.ClientID
	s.Version = sarama.V2_8_0_0
	s.Net.DialTimeout = 3 * time.Second
	s.Net.ReadTimeout = 15 * time.Second
	s.Net.WriteTimeout = 10 * time.Second
	s.Metadata.Retry.Max = 2
	s.Metadata.Retry.Backoff = 250 * time.Millisecond
	s.Metadata.RefreshFrequency = time.Minute        // for so long a producer sends by a former number of partitions
	s.Metadata.AllowAutoTopicCreation = false        // EnsureTopics makes topics, with the right number of partitions
	s.Consumer.IsolationLevel = sarama.ReadCommitted // records of aborted transactions never happened
	c.Security.apply(s)
	if c.Dial != nil {
		s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, dialer{c.Dial, s.Net.DialTimeout}
	}
	return s
}

// dialer is a Dial function as sarama calls it.
type dialer struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	return d.dial(ctx, network, address)
}

// allHeaders is the header in which Debezium's event router puts the outbox's column of the same name: all of a message's, as JSON.
// formerAllHeaders is its name in older versions, which counts if the record has no headers of CloudEvents beside it: another service may
// have a header of that name.
const (
	allHeaders       = "millrace_headers"
	formerAllHeaders = "headers"
)

// headersOf returns the headers of a record; where a name is there twice, the last one.
func headersOf(record *sarama.ConsumerMessage) message.Metadata {
	metadata := make(message.Metadata, len(record.Headers)+1)
	var values strings.Builder // all in one piece
	for _, h := range record.Headers {
		values.Write(h.Value)
	}
	rest := values.String()
	for _, h := range record.Headers {
		metadata[nameOf(h.Key)] = rest[:len(h.Value)]
		rest = rest[len(h.Value):]
	}
	for _, name := range []string{allHeaders, formerAllHeaders} {
		all, ok := metadata[name]
		if !ok || metadata[cqrs.HeaderID] != "" {
			continue
		}
		var inner message.Metadata
		if json.Unmarshal([]byte(all), &inner) == nil && inner[cqrs.HeaderID] != "" {
			delete(metadata, name)
			maps.Copy(metadata, inner)
		}
	}
	return metadata
}

// orderKey is the key by which a record is ordered: the header keyHeader, or the record's key.
func orderKey(record *sarama.ConsumerMessage, keyHeader string) string {
	if keyHeader != "" {
		if value, ok := header(record, keyHeader); ok {
			return value
		}
	}
	return string(record.Key)
}

// header is the header of a record with a name, or the one with a former name of it.
func header(record *sarama.ConsumerMessage, wanted string) (value string, found bool) {
	for _, h := range record.Headers {
		switch name := string(h.Key); name {
		case wanted:
			return string(h.Value), true
		case allHeaders, formerAllHeaders:
			for name, value := range headersOf(record) {
				if name == wanted || cqrs.FormerHeaders[name] == wanted {
					return value, true
				}
			}
		default:
			if cqrs.FormerHeaders[name] == wanted {
				return string(h.Value), true
			}
		}
	}
	return "", false
}

// CloudEvents converts records in CloudEvents' binary form, and any other records, into messages.
type CloudEvents struct{}

// Unmarshal implements wkafka.Unmarshaler. It never fails, because an error would end the consumption of the partition: a record that cannot
// be decoded becomes a dead letter later. A record without an id gets one made of its offset, its time and its content, because a topic that
// was recreated has another record at the same offset. The record's key takes precedence over the header with the same meaning, because Kafka
// and the subscriber order by the key.
func (CloudEvents) Unmarshal(record *sarama.ConsumerMessage) (*message.Message, error) {
	metadata := headersOf(record)
	id := metadata[cqrs.HeaderID]
	if id == "" {
		hash := sha256.New()
		hash.Write(record.Key)
		hash.Write(record.Value)
		id = fmt.Sprintf("%s/%d/%d/%d/%x", record.Topic, record.Partition, record.Offset, record.Timestamp.UnixMilli(), hash.Sum(nil)[:8])
	}
	if len(record.Key) > 0 {
		metadata[cqrs.HeaderKey] = string(record.Key)
	}
	msg := message.NewMessage(id, record.Value)
	msg.Metadata = metadata
	return msg, nil
}

// names has the kit's header names, so that a known name is not allocated for each record.
var names = func() map[string]string {
	known := map[string]string{}
	for _, name := range cqrs.Headers {
		known[name] = name
	}
	return known
}()

func nameOf(key []byte) string {
	if name, ok := names[string(key)]; ok {
		return name
	}
	return string(key)
}

// fetchBytes is the size of a fetch of a partition. It is small, because there are many partitions, and more is prefetched than is needed.
func (c Config) fetchBytes() int32 {
	if c.FetchBytes > 0 {
		return min(c.FetchBytes, 256<<10)
	}
	return 256 << 10
}

// consumer is the configuration of a member of a group.
func (c Config) consumer() *sarama.Config {
	s := c.sarama()
	s.Consumer.Return.Errors = true
	s.Consumer.MaxWaitTime = time.Second // a fetch that finds nothing is answered after that; one that finds something, at once
	s.Consumer.Fetch.Default = c.fetchBytes()
	s.ChannelBufferSize = 64
	s.Consumer.Offsets.Initial = sarama.OffsetOldest // a new group begins at the beginning: nothing is skipped
	s.Consumer.Group.InstanceId = c.InstanceID
	s.Consumer.Group.Session.Timeout = 6 * time.Second    // the least that brokers allow by default
	s.Consumer.Group.Heartbeat.Interval = 2 * time.Second // a third of it, as usual: each group sends its own
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	// The others are what instances of older versions know.
	s.ClientID += "-" + c.Instance
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{
		newHosts(c.Member), sarama.NewBalanceStrategyRange(), sarama.NewBalanceStrategySticky(),
	}
	return s
}

// SubscriberOptions are the options of a subscriber. All may be zero.
type SubscriberOptions struct {
	KeyHeader   string                                     // the header whose value is the key, if a record has it
	Run         int                                        // how many messages of a key are in flight at once
	Skip        func(header func(name string) string) bool // tells by its headers whether a record need not be delivered (keyordered.Config.Skip)
	KeepOffline func() bool                                // keyordered.Config.KeepOffline
	Unavailable func() bool                                // keyordered.Config.Unavailable
	OnMissing   func(topic string)                         // keyordered.Config.OnMissing
}

// NewSubscriber makes a key-ordered subscriber for a group. The key is that of the header keyHeader, if a record has it, else the record's. A
// message's cqrs.Turn is in its context: up to run messages of a key are in flight at once, and take their turns.
func NewSubscriber(c Config, group string, o SubscriberOptions, logger watermill.LoggerAdapter) (*keyordered.Subscriber, error) {
	var skip func(*sarama.ConsumerMessage) bool
	if o.Skip != nil {
		skip = func(r *sarama.ConsumerMessage) bool {
			return o.Skip(func(name string) string {
				value, _ := header(r, name)
				return value
			})
		}
	}
	s, err := keyordered.NewSubscriber(keyordered.Config{
		Skip: skip, Brokers: c.Brokers, Group: group, Sarama: c.consumer(), Unmarshaler: c.records(), Logger: logger, MaxBytes: c.GroupBytes,
		Key: func(r *sarama.ConsumerMessage) string { return orderKey(r, o.KeyHeader) },
		Run: o.Run, KeepOffline: o.KeepOffline, Unavailable: o.Unavailable, OnMissing: o.OnMissing,
		Link: func(before any) (link any, done func()) {
			b, _ := before.(*cqrs.Turn)
			t := cqrs.NewTurn(b)
			return t, t.Done
		},
		WithLink: func(ctx context.Context, link any) context.Context { return cqrs.WithTurn(ctx, link.(*cqrs.Turn)) },
	})
	if err != nil {
		return nil, fmt.Errorf("subscriber of group %s: %w", group, err)
	}
	return s, nil
}
