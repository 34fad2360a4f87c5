package keyordered

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// numbering unmarshals records whose values are their numbers in the order of arrival.
type numbering struct{}

func (numbering) Unmarshal(r *sarama.ConsumerMessage) (*message.Message, error) {
	return numbered(string(r.Key), string(r.Value)), nil
}

func numbered(key, number string) *message.Message {
	msg := message.NewMessage(number, []byte(number))
	msg.Metadata["key"] = key
	return msg
}

// offers is the test's knowledge of the offered messages.
type offers struct {
	mu     sync.Mutex
	done   map[int64][]bool // arguments of the calls of Done, by number
	active map[string]int   // messages that were accepted and are not done, by key
}

func (o *offers) more(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.active[key] > 0
}

// Records, offered messages and messages that a claim delivers start in the order in which they arrived or were claimed, whether the partition is
// drained or revoked. With one message of a key at a time, none starts while its key is claimed. Done is called once for each offered message, with
// true if and only if the message was acknowledged, and all bytes are given back.
func TestOfferedMessagesFollowTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		count := rapid.IntRange(1, 120).Draw(rt, "messages")
		keys := rapid.IntRange(1, 6).Draw(rt, "keys")
		limit := rapid.IntRange(1, 20).Draw(rt, "in flight")
		bytes := rapid.IntRange(200, 3000).Draw(rt, "bytes")
		nacks := rapid.IntRange(0, 5).Draw(rt, "nacks of ten")
		run := rapid.IntRange(1, 4).Draw(rt, "run")
		claiming := rapid.IntRange(0, 5).Draw(rt, "claims of ten")
		ratio := rapid.IntRange(0, 10).Draw(rt, "records of ten")
		lost := rapid.Bool().Draw(rt, "taken away")
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		var chanceMu sync.Mutex
		roll := func(n int) int {
			chanceMu.Lock()
			defer chanceMu.Unlock()
			return chance.IntN(n)
		}
		m := newModel(run)
		o := &offers{done: map[int64][]bool{}, active: map[string]int{}}
		var numbers sync.Map // numbers of records, by offset
		var marked int64     // set by the partition, under its lock
		var tooEarly []int64
		config := m.config(rt, Config{Unmarshaler: numbering{}, MaxInFlight: limit, MaxAhead: 40})
		stop, end := context.WithCancel(context.Background())
		base, lose := context.WithCancel(context.Background())
		out := make(chan *message.Message)
		p := newPartition(config, "t", stop, base, out, newBudget(bytes), func(next int64) {
			for ; marked < next; marked++ {
				if number, _ := numbers.Load(marked); !m.isAcked(number.(int64)) {
					tooEarly = append(tooEarly, marked)
				}
			}
		})
		p.position = 0
		s := &Subscriber{config: config, claimed: map[place]*partition{}}
		s.claim(place{"t", 0}, p)
		var handling sync.WaitGroup
		handling.Go(func() {
			for msg := range out {
				handling.Go(func() {
					var number int64
					_, _ = fmt.Sscan(string(msg.Payload), &number)
					key := msg.Metadata["key"]
					m.begins(msg.Context().Value("link").(*link), key, number)
					time.Sleep(time.Duration(roll(200)) * time.Microsecond)
					if acked := roll(10) >= nacks; acked {
						m.ends(key, number, true)
						msg.Ack()
					} else {
						m.ends(key, number, false)
						msg.Nack()
					}
				})
			}
		})
		offset, taken := int64(0), 0
		var claims sync.WaitGroup
		claimedBy := map[string]int64{} // numbers of claims, by key
		m.mayBegin = func(key string, number int64) bool {
			by, claimed := claimedBy[key]
			return !claimed || by == number || m.run > 1
		}
		for n := range int64(count) {
			key := fmt.Sprint("k", roll(keys))
			number := fmt.Sprint(n + 1)
			if roll(10) < claiming {
				if s.Claim("t", 0, key, offset+1) != nil {
					rt.Fatal("it was claimed before the record before it was received")
				}
				m.mu.Lock()
				busy := len(m.open[key]) > 0
				claim := s.Claim("t", 0, key, offset)
				if claim != nil {
					claimedBy[key] = n + 1
				}
				m.mu.Unlock()
				if claim == nil {
					continue
				}
				if busy {
					rt.Fatal("a key was claimed that has a message in flight")
				}
				deliver, pause := roll(2) == 0, time.Duration(roll(300))*time.Microsecond
				if deliver {
					taken++
				}
				claims.Go(func() {
					time.Sleep(pause)
					m.mu.Lock()
					delete(claimedBy, key)
					m.mu.Unlock()
					if !deliver {
						claim.Release()
						claim.Deliver(numbered(key, number), nil, nil) // has no effect after the first call
						return
					}
					claim.Deliver(numbered(key, number), func(ctx context.Context) context.Context { return context.WithValue(ctx, "first", true) }, func(acked bool) { //nolint:staticcheck // of this test
						o.mu.Lock()
						defer o.mu.Unlock()
						o.done[n+1] = append(o.done[n+1], acked)
					})
					claim.Release()
				})
				continue
			}
			if roll(10) < ratio {
				numbers.Store(offset, n+1)
				if !p.admit(&sarama.ConsumerMessage{Offset: offset, Key: []byte(key), Value: []byte(number)}) {
					rt.Fatal("it has stopped")
				}
				offset++
				continue
			}
			offer := Offered{
				Topic: "t", Key: key, After: offset + 1, More: o.more(key), Message: numbered(key, number),
				Done: func(acked bool) {
					o.mu.Lock()
					defer o.mu.Unlock()
					o.done[n+1] = append(o.done[n+1], acked)
					o.active[key]--
				},
			}
			if s.Offer(offer) {
				rt.Fatal("it was taken before the record before it was received")
			}
			offer.After = offset
			o.mu.Lock()
			o.active[key]++
			o.mu.Unlock()
			if s.Offer(offer) {
				taken++
				continue
			}
			o.mu.Lock()
			o.active[key]--
			o.mu.Unlock()
		}
		if lost {
			end()
		} else {
			claims.Wait()
			require.Eventually(rt, func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.inFlight == 0
			}, 10*time.Second, time.Millisecond)
		}
		p.drain(10*time.Second, func() {})
		claims.Wait()
		if s.Claim("t", 0, "k0", 0) != nil {
			rt.Fatal("a key of a partition that is closed was claimed")
		}
		if s.Offer(Offered{Topic: "t", Key: "k0", Message: numbered("k0", "0"), Done: func(bool) {}}) {
			rt.Fatal("it was taken by a partition that is closed")
		}
		s.unclaim(place{"t", 0}, p)
		end()
		lose()
		close(out)
		handling.Wait()
		if len(m.faults) > 0 || len(tooEarly) > 0 {
			rt.Fatal(m.faults, "records that were marked and not acknowledged: ", tooEarly)
		}
		if len(o.done) != taken {
			rt.Fatalf("%d were taken, %d are done", taken, len(o.done))
		}
		for number, calls := range o.done {
			if len(calls) != 1 || calls[0] != m.isAcked(number) || !lost && !calls[0] {
				rt.Fatalf("done of %d was called with %v, acknowledged: %t", number, calls, m.isAcked(number))
			}
		}
		if p.bytes.left != bytes || !lost && (len(p.keys) > 0 || len(p.window) > 0) {
			rt.Fatalf("left behind: %d keys, %d records, %d bytes", len(p.keys), len(p.window), bytes-p.bytes.left)
		}
	})
}

// offerable returns an assigned partition of a subscriber, without a broker.
func offerable(t *testing.T, s *Subscriber, out chan *message.Message, bytes int) (p *partition, lost func()) {
	t.Helper()
	stop, end := context.WithCancel(context.Background())
	base, lose := context.WithCancel(context.Background())
	t.Cleanup(func() { end(); lose() })
	p = newPartition(s.config, "t", stop, base, out, newBudget(bytes), func(int64) {})
	s.claim(place{"t", 0}, p)
	return p, end
}

func offeringSubscriber(t *testing.T, limit int) *Subscriber {
	t.Helper()
	s, err := NewSubscriber(Config{Brokers: []string{"none"}, Group: "g", Unmarshaler: numbering{}, MaxInFlight: limit})
	require.NoError(t, err)
	return s
}

// A partition was revoked and assigned again while a handler that ignores its context was active. The next message of the key is refused, because in
// the new claim it would not wait for that handler.
func TestOfferedMessageWaitsForAnEarlierClaim(t *testing.T) {
	s := offeringSubscriber(t, 10)
	out := make(chan *message.Message)
	before, lost := offerable(t, s, out, 1000)
	done := make(chan bool, 1)
	require.True(t, s.Offer(Offered{Topic: "t", Key: "k", Message: numbered("k", "1"), Done: func(acked bool) { done <- acked }}))
	first := <-out
	require.True(t, s.Offer(Offered{Topic: "t", Key: "k", More: true, Message: numbered("k", "2"), Done: func(bool) {}}))
	lost()
	before.drain(time.Millisecond, func() {})
	s.unclaim(place{"t", 0}, before)
	offerable(t, s, out, 1000)
	require.False(t, s.Offer(Offered{Topic: "t", Key: "k", More: true, Message: numbered("k", "2"), Done: func(bool) {}}))
	require.True(t, s.Offer(Offered{Topic: "t", Key: "other", Message: numbered("other", "1"), Done: func(bool) {}}))
	first.Ack()
	require.True(t, <-done)
}

// A record that finds no room is admitted before messages that are offered later. Otherwise these could take the room again and again.
func TestRecordComesBeforeLaterOffers(t *testing.T) {
	s := offeringSubscriber(t, 10)
	out := make(chan *message.Message)
	p, _ := offerable(t, s, out, 300)
	offer := func(n int) (taken bool) {
		key := fmt.Sprint("k", n)
		return s.Offer(Offered{Topic: "t", Key: key, Message: numbered(key, fmt.Sprint(n)), Done: func(bool) {}})
	}
	require.True(t, offer(0))
	admitted := make(chan bool, 1)
	go func() {
		admitted <- p.admit(&sarama.ConsumerMessage{Key: []byte("record"), Value: make([]byte, 200)})
	}()
	for n := 1; n < 200; n++ { // if each message is accepted, one is always in flight
		before := <-out
		time.Sleep(time.Millisecond)
		taken := offer(n)
		before.Ack()
		if !taken {
			break
		}
	}
	select {
	case ok := <-admitted:
		require.True(t, ok)
	case <-time.After(5 * time.Second):
		t.Fatal("the record was not admitted")
	}
	(<-out).Ack()
}

// A key whose messages are offered faster than they are handled does not block records of other keys forever.
func TestBusyKeyLeavesRoomForRecords(t *testing.T) {
	s := offeringSubscriber(t, 3)
	out := make(chan *message.Message)
	p, _ := offerable(t, s, out, 100_000)
	waiting := 0
	var mu sync.Mutex
	offer := func() {
		mu.Lock()
		defer mu.Unlock()
		for waiting < 6 {
			if !s.Offer(Offered{Topic: "t", Key: "busy", More: waiting > 0, Message: numbered("busy", "1"), Done: func(bool) {
				mu.Lock()
				defer mu.Unlock()
				waiting--
			}}) {
				return
			}
			waiting++
		}
	}
	offer()
	admitted := make(chan bool, 1)
	go func() { admitted <- p.admit(&sarama.ConsumerMessage{Key: []byte("record"), Value: []byte("2")}) }()
	for end := time.After(5 * time.Second); ; {
		select {
		case msg := <-out:
			time.Sleep(time.Millisecond)
			offer()
			msg.Ack()
		case <-admitted:
			return
		case <-end:
			t.Fatal("the record was not admitted")
		}
	}
}
