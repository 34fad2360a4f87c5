package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

var errTopic = errors.New("unknown topic")

// topicLog is a broker some of whose topics cannot be sent to.
type topicLog struct {
	mu       sync.Mutex
	faulty   map[string]bool
	refused  func(topic, key, text string) bool
	records  map[string][]string // by topic and key
	attempts map[string]int      // by topic
}

func (l *topicLog) Close() error { return nil }

func (l *topicLog) Publish(topic string, messages ...*message.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.records == nil {
		l.records, l.attempts = map[string][]string{}, map[string]int{}
	}
	l.attempts[topic]++
	for _, msg := range messages {
		switch key := msg.Metadata[cqrs.HeaderKey]; {
		case l.faulty[topic]:
			return fmt.Errorf("%w: %s", errTopic, topic)
		case l.refused != nil && l.refused(topic, key, string(msg.Payload)):
			return errRefused
		default:
			l.records[topic+" "+key] = append(l.records[topic+" "+key], string(msg.Payload))
		}
	}
	return nil
}

func (l *topicLog) set(topic string, faulty bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faulty == nil {
		l.faulty = map[string]bool{}
	}
	l.faulty[topic] = faulty
}

func (l *topicLog) of(topic, key string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.records[topic+" "+key]...)
}

func (l *topicLog) attemptsOf(topic string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attempts[topic]
}

var errRefused = errors.New("refused")

func topicOptions() outbox.Options {
	return outbox.Options{
		Batch: 20, Poll: 50 * time.Millisecond,
		TopicFault: func(err error) bool { return errors.Is(err, errTopic) }, Refused: func(err error) bool { return errors.Is(err, errRefused) },
	}
}

// A topic that cannot be sent to is suspended, with its reason, and tried again with growing delays; other topics go on, although their
// messages come after a backlog of its own. When it can be sent to again, everything arrives in order.
func TestSuspendedTopicDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	l := &topicLog{}
	l.set("bad", true)
	var items []item
	for n := range 2000 {
		items = append(items, item{key: fmt.Sprint(n % 10), text: fmt.Sprint(n / 10)})
	}
	write(t, db, "bad", items...)
	relay, _ := run(t, db, dsn, l, topicOptions())
	write(t, db, "good", items[:100]...)
	relay.Wake()
	kittest.Eventually(t, func() error {
		for k := range 10 {
			if got := len(l.of("good", fmt.Sprint(k))); got < 10 {
				return fmt.Errorf("key %d of the good topic has %d messages", k, got)
			}
		}
		return nil
	})
	drained(t, db)
	suspended, err := outbox.SuspendedTopics(t.Context(), db)
	require.NoError(t, err)
	require.Len(t, suspended, 1)
	require.Equal(t, "bad", suspended[0].Topic)
	require.Contains(t, suspended[0].Reason, "unknown topic: bad")
	b, err := outbox.LoadBacklog(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, outbox.Backlog{Suspended: 2000}, b)
	before := l.attemptsOf("bad")
	time.Sleep(3 * time.Second)
	require.Less(t, l.attemptsOf("bad")-before, 80, "10 keys a try, and ever fewer tries")
	write(t, db, "bad", items...)
	l.set("bad", false)
	kittest.Eventually(t, func() error {
		b, err := outbox.LoadBacklog(t.Context(), db)
		if suspended, listErr := outbox.SuspendedTopics(t.Context(), db); b != (outbox.Backlog{}) || len(suspended) > 0 {
			err = fmt.Errorf("%+v %v", b, suspended)
			_ = listErr
		}
		return err
	})
	for k := range 10 {
		var want []string
		for range 2 {
			for n := range 200 {
				want = append(want, fmt.Sprint(n))
			}
		}
		require.Equal(t, want, l.of("bad", fmt.Sprint(k)))
	}
}

// Two relays, three topics that fail and recover at random, messages that are refused and replayed at random: each key keeps its order,
// nothing is lost, and in the end no topic is suspended and no message is left aside.
func TestSuspendedTopicsKeepKeyOrder(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	l := &topicLog{}
	var refusing sync.Map
	refusing.Store("on", true)
	l.refused = func(string, string, string) bool {
		_, on := refusing.Load("on")
		return on && rand.IntN(100) == 0
	}
	topics, keys := []string{"a", "b", "c"}, keyNames(6)
	const each = 150
	run(t, db, dsn, l, topicOptions())
	run(t, db, dsn, l, topicOptions())
	letters := deadletter.New(db)
	ctx, stop := context.WithCancel(t.Context())
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for ctx.Err() == nil {
			l.set(topics[rand.IntN(3)], rand.IntN(2) == 0)
			time.Sleep(rand.N(400 * time.Millisecond))
		}
	})
	replay := func() error {
		list, err := letters.List(t.Context(), cqrs.Newest, 50)
		for _, letter := range list {
			if err := letters.Replay(t.Context(), letter.ID); err != nil && !errors.Is(err, cqrs.ErrNotFound) {
				return err
			}
		}
		return err
	}
	chaos.Go(func() {
		for ctx.Err() == nil {
			if err := replay(); err != nil {
				t.Error(err)
			}
			time.Sleep(rand.N(100 * time.Millisecond))
		}
	})
	for n := range each {
		for _, topic := range topics {
			var items []item
			for _, key := range keys {
				items = append(items, item{key: key, text: fmt.Sprint(n)})
			}
			write(t, db, topic, items...)
		}
		time.Sleep(rand.N(60 * time.Millisecond))
	}
	stop()
	chaos.Wait()
	refusing.Delete("on")
	for _, topic := range topics {
		l.set(topic, false)
	}
	kittest.Eventually(t, func() error {
		if err := replay(); err != nil {
			return err
		}
		b, err := outbox.LoadBacklog(t.Context(), db)
		suspended, listErr := outbox.SuspendedTopics(t.Context(), db)
		if b != (outbox.Backlog{}) || len(suspended) > 0 {
			err = fmt.Errorf("%+v %v", b, suspended)
		}
		return errors.Join(err, listErr)
	})
	for _, topic := range topics {
		for _, key := range keys {
			var want []string
			for n := range each {
				want = append(want, fmt.Sprint(n))
			}
			require.Equal(t, want, firstOf(l.of(topic, key)), "%s %s", topic, key)
		}
	}
}
