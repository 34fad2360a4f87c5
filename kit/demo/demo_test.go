package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// api serves fixed answers by their paths.
func api(t *testing.T, answers map[string]string) Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if r.URL.RawQuery != "" {
			path += "?" + r.URL.RawQuery
		}
		answer, known := answers[path]
		if !known {
			w.WriteHeader(http.StatusNotFound)
			answer = `{"detail":"nothing here"}`
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	return Client{server.URL, server.Client()}
}

func TestListReadsAllPages(t *testing.T) {
	c := api(t, map[string]string{
		"/v1/books?limit=100&cursor=":        `{"books":["a","b"],"next_cursor":"n 1"}`,
		"/v1/books?limit=100&cursor=n+1":     `{"books":["c"]}`,
		"/v1/x?status=new&limit=100&cursor=": `{"x":[]}`,
		"/v1/odd?limit=100&cursor=":          `{"odd":7}`,
	})
	books, err := List[string](t.Context(), c, "/v1/books", "books")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, books)
	none, err := List[string](t.Context(), c, "/v1/x?status=new", "x")
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = List[string](t.Context(), c, "/v1/odd", "odd")
	require.Error(t, err)
	_, err = List[string](t.Context(), c, "/v1/nothing", "x")
	require.True(t, NotFound(err))
	require.ErrorContains(t, err, "nothing here")
	require.False(t, NotFound(errors.New("other")))
}

const empty = `{"sagas":[]}`

func TestAtRest(t *testing.T) {
	answers := map[string]string{
		"/v1/sagas?limit=10&status=running": empty, "/v1/sagas?limit=10&status=compensating": empty, "/v1/sagas?limit=10&status=stuck": empty,
		"/v1/outbox": `{"pending":0,"delayed":0,"parked":0}`,
	}
	var r Report
	require.NoError(t, api(t, answers).AtRest(t.Context(), &r))
	require.True(t, r.Consistent())
	require.Equal(t, "balanced", r.Sentence())
	answers["/v1/sagas?limit=10&status=stuck"] = `{"sagas":[{"saga_id":"s1","subject":"book 1"}]}`
	answers["/v1/outbox"] = `{"pending":1,"delayed":2,"parked":3}`
	require.NoError(t, api(t, answers).AtRest(t.Context(), &r))
	require.Equal(t, "NOT balanced: saga s1 of book 1 is stuck; the outbox holds 1 messages that are due, 2 delayed and 3 parked ones", r.Sentence())
	delete(answers, "/v1/outbox")
	require.Error(t, api(t, answers).AtRest(t.Context(), &r))
}

func TestWaitChecksUntilConsistent(t *testing.T) {
	n := 0
	r, err := Wait(t.Context(), time.Minute, func(context.Context) (*Report, error) {
		n++
		switch n {
		case 1:
			return &Report{}, errors.New("not yet")
		case 2:
			return &Report{Faults: []string{"x"}}, nil
		}
		return &Report{}, nil
	})
	require.NoError(t, err)
	require.True(t, r.Consistent())
	require.Equal(t, 3, n)

	r, err = Wait(t.Context(), 0, func(context.Context) (*Report, error) { return &Report{Faults: []string{"x"}}, nil })
	require.NoError(t, err, "an inconsistent report is no error")
	require.False(t, r.Consistent())
	_, err = Wait(t.Context(), 0, func(context.Context) (*Report, error) { return &Report{}, errors.New("unreadable") })
	require.ErrorContains(t, err, "unreadable")
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Wait(stopped, time.Minute, func(context.Context) (*Report, error) { return &Report{Faults: []string{"x"}}, nil })
	require.ErrorIs(t, err, context.Canceled)
}

// books is a demo in which every third task is refused, and the first task is slow.
func books() Demo {
	return Demo{
		Noun: "books", Statuses: []string{"lent", "refused"}, Slow: "wait for a reader",
		Task: func(ctx context.Context, _ Client, n, _ int) (Outcome, error) {
			switch {
			case n == 0:
				time.Sleep(100 * time.Millisecond)
				return Outcome{Status: "lent", Slow: true}, nil
			case n%3 == 1:
				return Outcome{Status: "refused", Reason: "lost"}, nil
			}
			return Outcome{Status: "lent"}, ctx.Err()
		},
		JSON: func(r Result) any { return map[string]any{"books": r.Total, "lent": r.ByStatus["lent"]} },
	}
}

func still(context.Context, func() []byte) func() { return func() {} }

func TestDemoMeasuresTasks(t *testing.T) {
	d := books()
	d.Prepare = func(_ context.Context, _ Client, total int) error { require.Equal(t, 10, total); return nil }
	var table string
	r, err := d.measure(t.Context(), Client{}, 10, false, func(_ context.Context, draw func() []byte) func() {
		return func() { table = string(draw()) }
	})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"lent": 7, "refused": 3}, r.ByStatus)
	require.Equal(t, map[string]int{"lost": 3}, r.ByReason)
	require.Equal(t, 1, r.Slow)
	require.GreaterOrEqual(t, r.Took, 100*time.Millisecond)
	require.Less(t, r.P99, 100*time.Millisecond, "slow tasks are left out")
	require.Greater(t, r.PerSecond, 90.0)
	require.Contains(t, table, "10 of 10 decided")
	require.Contains(t, table, "  lent           7\n  refused        3\n         3  lost\n")
}

func TestFirstErrorEndsTheDemo(t *testing.T) {
	d := books()
	var after atomic.Int64
	d.Task = func(ctx context.Context, _ Client, n, _ int) (Outcome, error) {
		if n == 5 {
			return Outcome{}, errors.New("task 5 failed")
		}
		<-ctx.Done()
		after.Add(1)
		return Outcome{}, ctx.Err()
	}
	_, err := d.measure(t.Context(), Client{}, 1000, false, still)
	require.ErrorContains(t, err, "task 5 failed")
	require.LessOrEqual(t, after.Load(), int64(inFlight))

	d.Prepare = func(context.Context, Client, int) error { return errors.New("not prepared") }
	_, err = d.measure(t.Context(), Client{}, 1, false, still)
	require.ErrorContains(t, err, "not prepared")
}

func TestDemoShowsResult(t *testing.T) {
	r := Result{
		Total: 4, ByStatus: map[string]int{"lent": 3, "refused": 1}, ByReason: map[string]int{"lost": 1}, Slow: 1, Took: 1500 * time.Millisecond, PerSecond: 2.4,
		P50: 20 * time.Millisecond, P99: 30 * time.Millisecond, Happened: []Happening{{0.5, "the reader is down"}},
	}
	var out bytes.Buffer
	require.NoError(t, books().show(&out, r, false))
	lines := strings.Split(out.String(), "\n")
	for i, want := range []string{
		"books 4", "lent 3", "refused 1", "lost 1", "time 1.5 s", "rate 2 books/s, without 1 that wait for a reader", "until decided p50 20 ms, p99 30 ms",
		"after 0.5 s the reader is down", "invariants consistent: nothing was lost, and nothing was done twice",
	} {
		require.Equal(t, want, strings.Join(strings.Fields(lines[i]), " "))
	}
	r.Report.Fault("book %d is lost", 7)
	out.Reset()
	require.NoError(t, books().show(&out, r, false))
	require.Contains(t, out.String(), "NOT consistent: book 7 is lost")
	out.Reset()
	require.NoError(t, books().show(&out, r, true))
	require.JSONEq(t, `{"books":4,"lent":3}`, out.String())
}

// The stand-in is down until its circuit breaker is open and a saga compensates. It works again afterwards in any case.
func TestOutage(t *testing.T) {
	var down atomic.Bool
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/sandbox/printer", func(w http.ResponseWriter, r *http.Request) {
		var faults struct{ Down bool }
		if err := json.NewDecoder(r.Body).Decode(&faults); err != nil {
			t.Error(err)
		}
		down.Store(faults.Down)
		_, _ = w.Write([]byte(`{}`))
	})
	mux.HandleFunc("GET /v1/breakers", func(w http.ResponseWriter, _ *http.Request) {
		state := "closed"
		if down.Load() {
			state = "open"
		}
		_, _ = fmt.Fprintf(w, `{"breakers":[{"name":"other","state":"half-open"},{"name":"printer","state":%q}]}`, state)
	})
	mux.HandleFunc("GET /v1/sagas", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 2 {
			_, _ = w.Write([]byte(empty))
			return
		}
		_, _ = w.Write([]byte(`{"sagas":[{}]}`))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	d := books()
	task, whileDown := d.Task, atomic.Int64{}
	d.Task = func(ctx context.Context, c Client, n, total int) (Outcome, error) {
		if n >= total/2 && down.Load() {
			whileDown.Add(1)
		}
		return task(ctx, c, n, total)
	}
	d.Outage = Outage{Service: "printer", Called: "the printer"}
	r, err := d.measure(t.Context(), Client{server.URL, server.Client()}, 8, true, still)
	require.NoError(t, err)
	require.False(t, down.Load())
	require.Positive(t, whileDown.Load(), "the second half begins when it is down")
	var happened []string
	for _, h := range r.Happened {
		happened = append(happened, h.What)
	}
	require.Equal(t, []string{
		"the printer is down", "its breaker is open: it is not called, and messages for it wait", "the first sagas have timed out and compensate; they end when it works again",
		"the printer works again", "its breaker is closed",
	}, happened)

	d.Outage.Service = "plotter"
	_, err = d.measure(t.Context(), Client{server.URL, server.Client()}, 8, true, still)
	require.ErrorContains(t, err, "--chaos needs the sandbox")
}
