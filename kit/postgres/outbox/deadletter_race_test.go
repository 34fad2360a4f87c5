package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/postgres/deadletter"
	"github.com/millrace/millrace/kit/postgres/outbox"
)

// The broker refuses messages at random while dead letters are replayed and dropped at random. No message stays parked without a dead
// letter, none is lost but those that were dropped, and each key keeps its order.
func TestDeadLetterReplayAndDropRaceWithRelay(t *testing.T) {
	t.Parallel()
	db, dsn := kittest.Database(t)
	refused := errors.New("refused")
	var refusing atomic.Bool
	refusing.Store(true)
	l := &log{fail: func(string, string) error {
		if refusing.Load() && rand.IntN(4) == 0 {
			return refused
		}
		return nil
	}}
	keys := keyNames(6)
	const each = 150
	options := outbox.Options{Batch: 5, Poll: 10 * time.Millisecond, Refused: func(err error) bool { return errors.Is(err, refused) }}
	relay, _ := run(t, db, dsn, l, options)
	letters := deadletter.New(db)
	ctx, stop := context.WithCancel(t.Context())
	var operators sync.WaitGroup
	var replayed, dropped atomic.Int64
	var mu sync.Mutex
	gone := map[string]bool{} // dropped, by key and text
	operate := func() {
		list, err := letters.List(t.Context(), cqrs.Newest, 10)
		if err != nil || len(list) == 0 {
			return
		}
		deadLetter := list[rand.IntN(len(list))]
		if rand.IntN(5) == 0 {
			if letters.Drop(t.Context(), deadLetter.ID, "ada", "test") == nil {
				dropped.Add(1)
				mu.Lock()
				gone[deadLetter.Key+" "+string(deadLetter.Payload)] = true
				mu.Unlock()
			}
		} else if letters.Replay(t.Context(), deadLetter.ID) == nil {
			replayed.Add(1)
		}
		relay.Wake()
	}
	for range 4 {
		operators.Go(func() {
			for ctx.Err() == nil {
				operate()
			}
		})
	}
	for n := range each {
		writeKeys(t, db, keys, n, n+1)
		relay.Wake()
		time.Sleep(rand.N(20 * time.Millisecond))
	}
	time.Sleep(time.Second)
	refusing.Store(false)
	settled := func() error {
		relay.Wake()
		b, err := outbox.LoadBacklog(t.Context(), db)
		n, countErr := letters.Count(t.Context())
		if err = errors.Join(err, countErr); err == nil && (b.Pending+b.Blocked > 0 || n > 0) {
			err = fmt.Errorf("%+v with %d dead letters", b, n)
		}
		return err
	}
	kittest.Eventually(t, settled)
	stop()
	operators.Wait()
	kittest.Eventually(t, settled)
	require.Greater(t, replayed.Load(), int64(20))
	require.Positive(t, dropped.Load())
	for _, key := range keys {
		var want []string
		for n := range each {
			if text := fmt.Sprint(n); !gone[key+" "+text] {
				want = append(want, text)
			}
		}
		require.Equal(t, want, firstOf(l.of(key)), key)
	}
}

// firstOf leaves out what came before: a message may come twice.
func firstOf(texts []string) (first []string) {
	seen := map[string]bool{}
	for _, text := range texts {
		if !seen[text] {
			seen[text] = true
			first = append(first, text)
		}
	}
	return first
}
