package keyordered

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// faulty fails for the records with the key "bad".
type faulty struct {
	unmarshaler
	fail func() error
}

func (u faulty) Unmarshal(r *sarama.ConsumerMessage) (*message.Message, error) {
	if string(r.Key) == "bad" {
		if err := u.fail(); err != nil {
			return nil, err
		}
	}
	return u.unmarshaler.Unmarshal(r)
}

// A bad message blocks only its own key, and is delivered whatever its bytes are, so that it can become a dead letter.
func TestConsumerPartitionIsolatesABadMessage(t *testing.T) {
	fine := func() error { return nil }
	for name, c := range map[string]struct {
		fail func() error
		key  func(*sarama.ConsumerMessage) string
		ack  bool   // the bad message is acknowledged in the end
		want string // the error with which it is delivered
	}{
		"slow":      {fail: fine},
		"hostile":   {fail: func() error { return errors.New("invalid bytes") }, ack: true, want: "invalid bytes"},
		"panicking": {fail: func() error { panic("out of range") }, ack: true, want: "panic: out of range"},
		"key panics": {fail: fine, key: func(r *sarama.ConsumerMessage) string {
			if string(r.Key) == "bad" {
				panic("out of range")
			}
			return string(r.Key)
		}, ack: true},
	} {
		t.Run(name, func(t *testing.T) {
			out := make(chan *message.Message)
			var marked sync.Map
			stop, end := context.WithCancel(context.Background())
			config := Config{
				Brokers: []string{"none"}, Group: "g", Sarama: sarama.NewConfig(), Unmarshaler: faulty{fail: c.fail}, Key: c.key,
				Logger: watermill.NopLogger{},
			}
			require.NoError(t, config.complete())
			p := newPartition(config, "t", stop, t.Context(), out, newBudget(1<<20), func(next int64) { marked.Store(next, true) })
			const records = 150
			go func() {
				for n := range records {
					key := fmt.Sprint("k", n%50)
					if n%50 == 0 {
						key = "bad"
					}
					p.admit(&sarama.ConsumerMessage{Offset: int64(n), Key: []byte(key), Value: []byte("v")})
				}
			}()
			good, bad := 0, 0
			for good < records/50*49 || c.ack && bad < records/50 {
				msg := <-out
				if msg.Metadata["key"] != "bad" {
					good++
					msg.Ack()
					continue
				}
				bad++
				require.Equal(t, []byte("v"), []byte(msg.Payload))
				require.Contains(t, msg.Metadata[MetadataError], c.want)
				if c.ack {
					msg.Ack()
				}
			}
			if c.ack {
				require.Eventually(t, func() bool { _, all := marked.Load(int64(records)); return all }, 5*time.Second, time.Millisecond)
			} else {
				require.Equal(t, 1, bad, "the next one of the key waits for it")
			}
			end()
		})
	}
}
