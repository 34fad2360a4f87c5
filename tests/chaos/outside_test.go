package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// marker is in the payload of each hostile record, so that its dead letter is recognised.
const marker = "chaos-hostile"

// hostileKey begins the keys of hostile records: no order has one of these.
const hostileKey = "hostile-"

// neverDelivered is a SKU that only aborted transactions deliver.
const neverDelivered = "ABORTED-1"

// external is a topic of another service to which messages are sent while it does not exist.
type external struct {
	stage *stage
	topic string
	mu    sync.Mutex
	sent  map[string]bool // ids of messages that were stored while the topic did not exist
}

func newExternal(s *stage) *external {
	e := &external{stage: s, topic: s.prefix + "-external.commands.parcels", sent: map[string]bool{}}
	admin, err := sarama.NewClusterAdmin(s.brokers, s.kafka())
	require.NoError(s.t, err)
	defer admin.Close() // nothing is pending
	require.NoError(s.t, admin.CreateTopic(e.topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false))
	return e
}

// deleted deletes the topic, stores messages for it, and makes it again after some seconds.
func (e *external) deleted() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.admin(func(a sarama.ClusterAdmin) error { return a.DeleteTopic(e.topic) }) {
		return // Kafka is away: the other fault of this round
	}
	require.Eventually(e.stage.t, func() bool { // until then the broker accepts messages, and deletes them with the topic; it may be paused meanwhile
		return e.admin(func(a sarama.ClusterAdmin) error {
			described, err := a.DescribeTopics([]string{e.topic})
			if err == nil && described[0].Err == sarama.ErrNoError {
				err = errors.New("it is still there")
			}
			return err
		})
	}, 2*time.Minute, 50*time.Millisecond, "the topic is not deleted")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for n := range 20 {
		id := uuid.NewString()
		_, err := e.stage.db.ExecContext(ctx, `INSERT INTO outbox (message_id, topic, key, shard, payload, headers) VALUES ($1, $2, $3, $4, $5, $6)`,
			id, e.topic, fmt.Sprint("parcel-", n), outbox.ShardOf(e.topic, fmt.Sprint("parcel-", n)), []byte(`{}`), fmt.Sprintf(`{"ce_id":%q,"ce_type":"SendParcel"}`, id))
		if err == nil {
			e.sent[id] = true
		}
		time.Sleep(200 * time.Millisecond)
	}
	require.Eventually(e.stage.t, func() bool {
		return e.admin(func(a sarama.ClusterAdmin) error {
			return a.CreateTopic(e.topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false)
		})
	}, 2*time.Minute, time.Second, "the topic cannot be made again")
}

// admin calls Kafka and tells whether it answered as wanted; what is there already, or gone already, is as wanted.
func (e *external) admin(call func(sarama.ClusterAdmin) error) bool {
	a, err := sarama.NewClusterAdmin(e.stage.brokers, e.stage.kafka())
	if err != nil {
		return false
	}
	defer a.Close() // nothing is pending
	err = call(a)
	return err == nil || errors.Is(err, sarama.ErrTopicAlreadyExists) || errors.Is(err, sarama.ErrUnknownTopicOrPartition)
}

// missing are the messages that were stored while the topic did not exist, and are not in it.
func (e *external) missing() (ids []string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	there := map[string]bool{}
	client, err := sarama.NewClient(e.stage.brokers, e.stage.kafka())
	if err != nil {
		return nil, err
	}
	defer client.Close() // nothing is pending
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return nil, err
	}
	defer consumer.Close() // nothing is pending
	for partition := range int32(2) {
		end, err := client.GetOffset(e.topic, partition, sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		if end == 0 {
			continue
		}
		records, err := consumer.ConsumePartition(e.topic, partition, sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		for r := range records.Messages() {
			for _, h := range r.Headers {
				if string(h.Key) == "ce_id" {
					there[string(h.Value)] = true
				}
			}
			if r.Offset >= end-1 {
				break
			}
		}
		records.AsyncClose()
	}
	for id := range e.sent {
		if !there[id] {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		e.sent = map[string]bool{} // a topic that is deleted once more takes these along
	}
	return ids, nil
}

// settled checks what the invariants do not include, and removes the dead letters of hostile records.
func (s *stage) settled(after string) {
	s.t.Helper()
	kittest.Eventually(s.t, func() error {
		missing, err := s.external.missing()
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("after %s: not in %s: %v", after, s.external.topic, missing)
		}
		return err
	})
	i := s.instances[0]
	require.Equal(s.t, http.StatusNotFound, i.Do(http.MethodGet, "/v1/stock/"+neverDelivered, "").Status, "an aborted delivery was handled")
	for {
		var list struct {
			Letters []struct {
				ID, Key, Payload, Reason, Consumer string
			} `json:"dead_letters"`
		}
		i.Do(http.MethodGet, "/v1/dead-letters?limit=100", "").JSON(s.t, &list)
		removed := 0
		for _, l := range list.Letters {
			if strings.Contains(l.Payload, marker) || strings.HasPrefix(l.Key, hostileKey) {
				response := i.Do(http.MethodDelete, "/v1/dead-letters/"+url.PathEscape(l.ID)+"?reason=chaos", "")
				require.Less(s.t, response.Status, 300, response.Body)
				removed++
			}
		}
		if removed == 0 {
			return
		}
	}
}

// revoke denies everybody to write a topic, for a while. Without an authorizer the broker refuses that, and the fault does not happen.
func (s *stage) revoke(topic string, d time.Duration) {
	deny := sarama.Acl{Principal: "User:*", Host: "*", Operation: sarama.AclOperationWrite, PermissionType: sarama.AclPermissionDeny}
	resource := sarama.Resource{ResourceType: sarama.AclResourceTopic, ResourceName: topic, ResourcePatternType: sarama.AclPatternLiteral}
	admin := func(call func(sarama.ClusterAdmin) error) error {
		a, err := sarama.NewClusterAdmin(s.brokers, s.kafka())
		if err != nil {
			return err
		}
		defer a.Close() // nothing is pending
		return call(a)
	}
	err := admin(func(a sarama.ClusterAdmin) error {
		return a.CreateACLs([]*sarama.ResourceAcls{{Resource: resource, Acls: []*sarama.Acl{&deny}}})
	})
	if err != nil {
		if strings.Contains(err.Error(), "Security") || strings.Contains(err.Error(), "security") || errors.Is(err, sarama.ErrSecurityDisabled) {
			require.NoError(s.t, err, "this fault needs a broker with an authorizer: see tests/chaos/run.sh")
		}
		return // Kafka is away: the other fault of this round
	}
	time.Sleep(d)
	require.Eventually(s.t, func() bool {
		return admin(func(a sarama.ClusterAdmin) error {
			_, err := a.DeleteACL(sarama.AclFilter{
				ResourceType: sarama.AclResourceTopic, ResourceName: &topic, ResourcePatternTypeFilter: sarama.AclPatternLiteral,
				Principal: &deny.Principal, Operation: sarama.AclOperationWrite, PermissionType: sarama.AclPermissionDeny,
			}, false)
			return err
		}) == nil
	}, 2*time.Minute, time.Second, "the ACL cannot be removed")
}

// lockRows locks rows that many units of work write: a running saga's, a stock's snapshot, and an order's in the read model.
func (s *stage) lockRows(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d+5*time.Second)
	defer cancel()
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{})
	if err != nil {
		return // PostgreSQL is away
	}
	defer tx.Rollback() // nothing was written
	for _, rows := range []string{
		`SELECT FROM saga_instances WHERE status = 'running' ORDER BY started_at DESC LIMIT 3 FOR UPDATE SKIP LOCKED`,
		`SELECT FROM snapshots LIMIT 1 FOR UPDATE SKIP LOCKED`,
		`SELECT FROM order_view WHERE status = 'pending' ORDER BY placed_at DESC LIMIT 3 FOR UPDATE SKIP LOCKED`,
		`SELECT FROM stock_view LIMIT 1 FOR UPDATE SKIP LOCKED`,
	} {
		if _, err := tx.ExecContext(ctx, rows); err != nil {
			return
		}
	}
	time.Sleep(d)
}

// hostile sends records that no service of ours would send to topics of all kinds.
func (s *stage) hostile() {
	producer, err := sarama.NewSyncProducer(s.brokers, s.kafka())
	if err != nil {
		return
	}
	defer producer.Close() // all was sent
	header := func(name, value string) sarama.RecordHeader {
		return sarama.RecordHeader{Key: []byte(name), Value: []byte(value)}
	}
	for round := range 5 {
		for _, topic := range []string{s.prefix + ".commands.inventory", s.prefix + ".events.orders", s.prefix + ".warehouse.events.deliveries"} {
			own := func(n int, more ...sarama.RecordHeader) []sarama.RecordHeader {
				return append([]sarama.RecordHeader{header("ce_specversion", "1.0"), header("ce_source", "/chaos"), header("ce_id", fmt.Sprint("hostile-", round, "-", n))}, more...)
			}
			for n, m := range []*sarama.ProducerMessage{
				{Key: sarama.ByteEncoder{0, 0, 0, 0, 0, 0, 1, byte(round)}, Value: sarama.StringEncoder(`{"a":"` + marker + `"}`), Headers: own(0, header("ce_type", "ReserveStock"))},
				{Key: sarama.StringEncoder(hostileKey + "1"), Value: sarama.StringEncoder(marker + "\xff\xfe"), Headers: own(1, header("ce_type", "order.placed"))},
				{Key: sarama.StringEncoder(hostileKey + "2"), Value: sarama.StringEncoder(`{"a":"` + marker + `"}`), Headers: own(2, header("ce_type", "a\x00b"), header("x\x00y", "\xff"))},
				{Key: sarama.StringEncoder(hostileKey + strings.Repeat("k", 6000)), Value: sarama.StringEncoder(`{"a":"` + marker + `"}`), Headers: own(3, header("ce_type", "delivery.arrived"))},
				{Key: sarama.StringEncoder(hostileKey + "4"), Value: sarama.StringEncoder(`{"sku":"` + marker + strings.Repeat("s", 6000) + `","quantity":1}`), Headers: own(4, header("ce_type", "delivery.arrived"))},
				{Key: sarama.StringEncoder(hostileKey + "5"), Value: sarama.StringEncoder(`{"sku":"` + marker + `\u0000","quantity":1}`), Headers: own(5, header("ce_type", "delivery.arrived"))},
				{Key: sarama.StringEncoder(hostileKey + "6"), Headers: own(6, header("ce_type", "delivery.arrived"))},
				{Key: sarama.StringEncoder(hostileKey + "7"), Value: sarama.StringEncoder(`{"a":"` + marker + `"}`)},
				{Key: sarama.StringEncoder(hostileKey + "8"), Value: sarama.StringEncoder(`{"a":"` + marker + `"}`), Headers: own(8, header("ce_type", "ReserveStock"), header("expires_at", "never"), header("consumer", "somebody"))},
			} {
				m.Topic = topic
				if _, _, err := producer.SendMessage(m); err != nil && !isAway(err) {
					s.t.Logf("hostile record %d: %v", n, err)
				}
			}
		}
		time.Sleep(time.Second)
	}
}

func isAway(err error) bool {
	return errors.Is(err, sarama.ErrOutOfBrokers) || errors.Is(err, sarama.ErrNotConnected) || errors.Is(err, sarama.ErrClosedClient) || errors.Is(err, syscall.ECONNREFUSED) ||
		strings.Contains(err.Error(), "circuit breaker is open") // Sarama's own
}

// aborted sends deliveries in transactions that are aborted: no consumer may process them.
func (s *stage) aborted() {
	c := s.kafka()
	c.Producer.Idempotent, c.Producer.RequiredAcks, c.Net.MaxOpenRequests = true, sarama.WaitForAll, 1
	c.Producer.Transaction.ID = s.prefix + "-" + uuid.NewString()
	producer, err := sarama.NewSyncProducer(s.brokers, c)
	if err != nil {
		return
	}
	defer producer.Close() // each transaction was ended
	for n := range 10 {
		if producer.BeginTxn() != nil {
			return
		}
		id := uuid.NewString()
		_, _, _ = producer.SendMessage(&sarama.ProducerMessage{
			Topic: s.prefix + ".warehouse.events.deliveries", Key: sarama.StringEncoder(neverDelivered), Value: sarama.StringEncoder(`{"sku":"` + neverDelivered + `","quantity":1}`),
			Headers: []sarama.RecordHeader{
				{Key: []byte("ce_specversion"), Value: []byte("1.0")}, {Key: []byte("ce_source"), Value: []byte("/warehouse")},
				{Key: []byte("ce_type"), Value: []byte("delivery.arrived")}, {Key: []byte("ce_id"), Value: []byte(id)},
			},
		})
		if err := producer.AbortTxn(); err != nil && producer.TxnStatus()&sarama.ProducerTxnFlagFatalError != 0 {
			return
		}
		time.Sleep(time.Duration(100*n) * time.Millisecond)
	}
}

// pauseKafka stops the broker's process for a while, so that whatever is sent to it is answered that much later.
func (s *stage) pauseKafka(d time.Duration) {
	ctl.Lock()
	defer ctl.Unlock()
	if dir := os.Getenv("SERVICES_DIR"); dir != "" {
		text, err := os.ReadFile(filepath.Join(dir, "kafka", "pid"))
		require.NoError(s.t, err, "Kafka's process")
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		require.NoError(s.t, err, "Kafka's process")
		require.NoError(s.t, syscall.Kill(pid, syscall.SIGSTOP))
		time.Sleep(d)
		require.NoError(s.t, syscall.Kill(pid, syscall.SIGCONT))
		return
	}
	out, err := exec.Command("bash", "-c", os.Getenv("CHAOS_CTL")+" pause kafka").CombinedOutput() // the tester's own
	require.NoError(s.t, err, "%s", out)
	time.Sleep(d)
	out, err = exec.Command("bash", "-c", os.Getenv("CHAOS_CTL")+" unpause kafka").CombinedOutput() // the tester's own
	require.NoError(s.t, err, "%s", out)
}
