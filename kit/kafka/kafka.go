// Package kafka connects a service to Apache Kafka. It has a batching producer for the outbox relay, a key-ordered subscriber for records in
// CloudEvents form, functions that create and check topics, and the security settings. Producer and subscriber do not fail when the broker is
// unavailable: they connect when they are used, and retry.
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

// Config is the configuration of the connection to the brokers.
type Config struct {
	Brokers []string

	// ClientID is the client id that brokers see.
	ClientID string

	// Instance identifies this instance. It is part of the client ids of group members, by which groups assign the same partition numbers of all
	// topics to one instance: the messages of a key then reach the same instance on every topic.
	Instance string

	// Member is the host of this instance and its start time. Of a group's members on one host, only one gets partitions.
	Member MemberMetadata

	// InstanceID makes this instance a static member of its groups: an instance that restarts within the session timeout keeps its partitions. It
	// must differ between instances. Empty: a dynamic member, which gives up its partitions when it stops.
	InstanceID string

	// GroupBytes limits the bytes of the records in flight of a group; default 64 MiB. FetchBytes limits one fetch of a partition; its default and
	// maximum are 256 KiB.
	GroupBytes int
	FetchBytes int32

	// Records converts records into messages. Default: CloudEvents.
	Records wkafka.Unmarshaler

	// Security is the encryption and authentication. Call Security.Check first, because connections do not report its faults.
	Security Security

	// Dial opens a connection to a broker, for example through a tunnel. Its ctx ends after three seconds. Nil: net.Dialer is used.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// init turns off sarama's metrics of each record and request, which nothing reads. This library has its own metrics.
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
	s.Metadata.RefreshFrequency = time.Minute        // also how long a producer may use a former number of partitions
	s.Metadata.AllowAutoTopicCreation = false        // EnsureTopics creates topics with the right number of partitions
	s.Consumer.IsolationLevel = sarama.ReadCommitted // records of aborted transactions must not be read
	c.Security.apply(s)
	if c.Dial != nil {
		s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, dialer{c.Dial, s.Net.DialTimeout}
	}
	return s
}

// dialer makes a Dial function a sarama proxy dialer.
type dialer struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	return d.dial(ctx, network, address)
}

// allHeaders is the header in which Debezium's event router puts the outbox column of the same name: all headers of a message, as JSON.
// formerAllHeaders is its name in older versions. Either is used only if the record has no CloudEvents id of its own, because another service may
// have a header of that name.
const (
	allHeaders       = "millrace_headers"
	formerAllHeaders = "headers"
)

// headersOf returns the headers of a record. If a name occurs twice, the last value counts.
func headersOf(record *sarama.ConsumerMessage) message.Metadata {
	metadata := make(message.Metadata, len(record.Headers)+1)
	var values strings.Builder // one allocation for all values
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

// orderKey returns the key by which a record is ordered: the value of the header keyHeader, or the record's key if it has no such header.
func orderKey(record *sarama.ConsumerMessage, keyHeader string) string {
	if keyHeader != "" {
		if value, ok := header(record, keyHeader); ok {
			return value
		}
	}
	return string(record.Key)
}

// header returns the value of a record's header, by its current or former name.
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

// CloudEvents converts records into messages: records in the binary content mode of CloudEvents, and any other records.
type CloudEvents struct{}

// Unmarshal implements wkafka.Unmarshaler. It never fails, because an error would stop the consumption of the partition: a record that cannot be
// decoded becomes a dead letter later. A record without an id gets an id that is made from its topic, partition, offset, time and content. The offset
// alone is not enough, because a recreated topic has another record at the same offset. The record's key replaces the header with the same meaning,
// because Kafka and the subscriber order by the record's key.
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

// names maps the known header names to themselves, so that nameOf does not allocate a known name for each record.
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

// fetchBytes returns the size of a fetch of a partition. It is small because there are many partitions and sarama prefetches more than is needed.
func (c Config) fetchBytes() int32 {
	if c.FetchBytes > 0 {
		return min(c.FetchBytes, 256<<10)
	}
	return 256 << 10
}

// consumer returns sarama's configuration of a group member.
func (c Config) consumer() *sarama.Config {
	s := c.sarama()
	s.Consumer.Return.Errors = true
	s.Consumer.MaxWaitTime = time.Second // a fetch without records is answered after this time, a fetch with records at once
	s.Consumer.Fetch.Default = c.fetchBytes()
	s.ChannelBufferSize = 64
	s.Consumer.Offsets.Initial = sarama.OffsetOldest // a new group starts at the oldest record, so that it skips none
	s.Consumer.Group.InstanceId = c.InstanceID
	s.Consumer.Group.Session.Timeout = 6 * time.Second    // the minimum that brokers allow by default
	s.Consumer.Group.Heartbeat.Interval = 2 * time.Second // a third of the session timeout, as usual; each group sends its own heartbeats
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	// Range and sticky are the strategies of older versions, with which this instance may share a group.
	s.ClientID += "-" + c.Instance
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{
		newHosts(c.Member), sarama.NewBalanceStrategyRange(), sarama.NewBalanceStrategySticky(),
	}
	return s
}

// SubscriberOptions are the options of a subscriber. Every field may be zero.
type SubscriberOptions struct {
	KeyHeader   string                                     // the header whose value is the key, if a record has it
	Run         int                                        // maximum number of messages of a key that are in flight at once (keyordered.Config.Run)
	Skip        func(header func(name string) string) bool // tells by the headers whether a record need not be delivered (keyordered.Config.Skip)
	KeepOffline func() bool                                // keyordered.Config.KeepOffline
	Unavailable func() bool                                // keyordered.Config.Unavailable
	OnMissing   func(topic string)                         // keyordered.Config.OnMissing
}

// NewSubscriber makes a key-ordered subscriber for a consumer group. The key of a record is the value of the header o.KeyHeader, or the record's key
// without such a header. The context of each message holds its cqrs.Turn, by which up to o.Run messages of a key that are in flight at once keep
// their order. It does not connect; an error is about the configuration.
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
