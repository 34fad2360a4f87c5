package topics_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/topics"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// Whoever publishes at the same time, and whatever other transactions are open: every group gets every message, those of a publisher in
// order, and two members of a group share the work without getting a message twice.
func TestNothingIsSkipped(t *testing.T) {
	const publishers, each = 8, 150
	db, dsn := kittest.Database(t)
	readers, err := topics.OpenReaders(dsn)
	require.NoError(t, err)
	defer readers.Close()
	open, err := db.BeginTxx(t.Context(), nil) // it would stall Watermill's own schema for good
	require.NoError(t, err)
	defer open.Rollback()
	_, err = open.Exec(`INSERT INTO topic_offsets (topic, consumer) VALUES ('other', 'x')`)
	require.NoError(t, err)

	var mu sync.Mutex
	got := map[string][]string{}
	for _, group := range []string{"a", "a", "b"} {
		subscriber, err := topics.NewSubscriber(readers, group, watermill.NopLogger{})
		require.NoError(t, err)
		defer subscriber.Close()
		messages, err := subscriber.Subscribe(t.Context(), "things")
		require.NoError(t, err)
		go func() {
			for msg := range messages {
				mu.Lock()
				got[group] = append(got[group], string(msg.Payload)+" "+msg.Metadata["who"]+" "+msg.UUID)
				mu.Unlock()
				msg.Ack()
			}
		}()
	}
	var all sync.WaitGroup
	for who := range publishers {
		publisher, err := topics.NewPublisher(db, watermill.NopLogger{})
		require.NoError(t, err)
		all.Go(func() {
			for n := 0; n < each; {
				var batch []*message.Message
				for range 1 + rand.IntN(5) {
					if n == each {
						break
					}
					msg := message.NewMessage(fmt.Sprintf("%d-%d", who, n), fmt.Appendf(nil, "%d", n))
					msg.Metadata["who"] = fmt.Sprint(who)
					batch = append(batch, msg)
					n++
				}
				if err := publisher.Publish("things", batch...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	kittest.Eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, group := range []string{"a", "b"} {
			if len(got[group]) < publishers*each {
				return fmt.Errorf("group %s has %d", group, len(got[group]))
			}
		}
		return nil
	})
	time.Sleep(100 * time.Millisecond) // for what would come twice
	mu.Lock()
	defer mu.Unlock()
	for group, lines := range got {
		require.Len(t, lines, publishers*each, group)
		next := map[int]int{}
		for _, line := range lines {
			var n, who int
			_, err := fmt.Sscanf(line, "%d %d", &n, &who)
			require.NoError(t, err)
			require.Equal(t, next[who], n, "group %s: of publisher %d", group, who)
			next[who]++
		}
	}
	read := 0
	require.NoError(t, topics.ReadAll(context.Background(), db, []string{"things", "nothing"}, func(topic string, msg *message.Message) error {
		require.Equal(t, "things", topic)
		require.NotEmpty(t, msg.Metadata["who"])
		read++
		return nil
	}))
	require.Equal(t, publishers*each, read)
}
