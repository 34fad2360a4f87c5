package txn

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// gather calls Do for n calls that share one group, and returns the answer of each.
func batcher(t *testing.T, n int, do func(calls []int) ([]string, error)) (answers []string, errs []error) {
	t.Helper()
	begin := make(chan struct{})
	g := &Batcher[int, string]{Max: n, Parallel: 1}
	g.Do = func(calls []int) ([]string, error) {
		if calls[0] < 0 {
			<-begin // the others come meanwhile
			return []string{""}, nil
		}
		return do(calls)
	}
	first := g.Enqueue(-1)
	g.mu.Lock()
	for len(g.waiting) > 0 { // the first call is a group of its own
		g.mu.Unlock()
		g.mu.Lock()
	}
	g.mu.Unlock()
	waits := make([]func() (string, error), n)
	for i := range n {
		wait := g.Enqueue(i)
		waits[i] = func() (string, error) { return wait(t.Context()) }
	}
	close(begin)
	_, err := first(t.Context())
	require.NoError(t, err)
	answers, errs = make([]string, n), make([]error, n)
	for i, wait := range waits {
		answers[i], errs[i] = wait()
	}
	return answers, errs
}

// One bad element of a gathered query fails alone, whatever is wrong with it.
func TestBatcherIsolatesABadElement(t *testing.T) {
	for name, fail := range map[string]func() error{
		"permanent": func() error { return fmt.Errorf("bad bytes: %w", cqrs.ErrRejected) },
		"unknown":   func() error { return errors.New("cannot encode") },
		"panicking": func() error { panic("out of range") },
	} {
		t.Run(name, func(t *testing.T) {
			const bad, n = 17, 50
			answers, errs := batcher(t, n, func(calls []int) ([]string, error) {
				out := make([]string, len(calls))
				for i, c := range calls {
					if c == bad {
						return nil, fail()
					}
					out[i] = fmt.Sprint(c)
				}
				return out, nil
			})
			for i := range n {
				if i == bad {
					require.Error(t, errs[i])
					continue
				}
				require.NoError(t, errs[i])
				require.Equal(t, fmt.Sprint(i), answers[i])
			}
		})
	}
}

// While the database is away, a gathered query is not repeated for each of its elements.
func TestBatcherDoesNotSplitWhileTheDatabaseIsUnavailable(t *testing.T) {
	var calls atomic.Int32
	_, errs := batcher(t, 50, func([]int) ([]string, error) {
		calls.Add(1)
		return nil, fmt.Errorf("read: %w", cqrs.ErrTransient)
	})
	for _, err := range errs {
		require.ErrorIs(t, err, cqrs.ErrTransient)
	}
	require.Equal(t, int32(1), calls.Load())
}
