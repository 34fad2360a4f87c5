package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/saga"
)

// one starts one instance of the service.
func one(t *testing.T) *kittest.Instance {
	t.Helper()
	e := kittest.NewEnvironment(t, "RATE_LIMIT=0")
	e.Program = "."
	return e.Start()
}

type timedStep struct {
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
}

type timedSaga struct{ Steps []timedStep }

// At low load, the test compares a stage of three parallel steps with a stage of one step that has the same command, in the same sagas.
func TestFigureOfAStage(t *testing.T) {
	kittest.Long(t)
	i := one(t)
	c := as(t, i)
	var three, single []time.Duration
	for n := range 110 {
		id := place(t, i, fmt.Sprint("t-", n), `"luggage":true,"visa_checks":1`)
		c.inStep(t, id, "wait for approval", "in_progress")
		if n < 10 { // warm up connections and caches
			continue
		}
		var s timedSaga
		i.Do(http.MethodGet, "/v1/sagas/"+id, "").JSON(t, &s)
		last := slices.MaxFunc(s.Steps[:3], func(a, b timedStep) int {
			return a.EndedAt.Compare(b.EndedAt)
		})
		three = append(three, last.EndedAt.Sub(s.Steps[0].StartedAt))
		single = append(single, s.Steps[3].EndedAt.Sub(s.Steps[3].StartedAt))
	}
	slices.Sort(three)
	slices.Sort(single)
	ratio := float64(three[50]) / float64(single[50])
	t.Logf("p50 of %d sagas: three parallel steps %s, one step %s, ratio %.2f", len(three), three[50], single[50], ratio)
}

// Many sagas wait for months. The test prints their cost at rest, and how late one more delay ends. WAITING_SAGAS is the number of sagas.
func TestFigureOfWaitingSagas(t *testing.T) {
	kittest.Long(t)
	sagas := 10_000
	if text := os.Getenv("WAITING_SAGAS"); text != "" {
		var err error
		sagas, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	i := one(t)
	db := kittest.OpenDB(t, i.DSN())
	transactions := func() int {
		n, err := strconv.Atoi(kittest.Column(t, db, `SELECT xact_commit::text FROM pg_stat_database WHERE datname = current_database()`)[0])
		require.NoError(t, err)
		return n
	}
	rest := func(what string) {
		time.Sleep(3 * time.Second)
		before := transactions()
		time.Sleep(10 * time.Second)
		memory := ""
		_, metrics, err := i.Get("/metrics")
		require.NoError(t, err)
		for line := range strings.SplitSeq(metrics, "\n") {
			for _, name := range []string{"process_resident_memory_bytes ", "go_memstats_heap_inuse_bytes "} {
				if value, ok := strings.CutPrefix(line, name); ok {
					bytes, err := strconv.ParseFloat(value, 64)
					require.NoError(t, err)
					memory += fmt.Sprintf(", %s%.0f MiB", name, bytes/(1<<20))
				}
			}
		}
		t.Logf("%s: %.1f transactions/s%s", what, float64(transactions()-before)/10, memory)
	}
	rest("no sagas")
	began := time.Now()
	var workers sync.WaitGroup
	for w := range 16 {
		workers.Go(func() {
			for n := w; n < sagas; n += 16 {
				answer, err := i.Try(http.MethodPost, "/naps", fmt.Sprintf(`{"id":"n-%d","for":"2160h"}`, n))
				if err == nil && answer.Status != http.StatusAccepted {
					err = fmt.Errorf("%d: %s", answer.Status, answer.Body)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	kittest.Eventually(t, func() error {
		if n := kittest.Column(t, db, `SELECT count(*)::text FROM outbox WHERE due_at > now() + interval '80 days'`)[0]; n != strconv.Itoa(sagas) {
			return fmt.Errorf("%s of %d sagas wait; statuses: %s", n, sagas, kittest.Column(t, db, `SELECT status || ' ' || count(*) FROM saga_instances GROUP BY status`))
		}
		return nil
	})
	t.Logf("%d sagas wait after %s", sagas, time.Since(began).Round(time.Second))
	rest(fmt.Sprint(sagas, " sagas wait"))
	time.Sleep(45 * time.Second) // until projections and offsets have caught up, and the cache was collected
	rest(fmt.Sprint(sagas, " sagas still wait"))
	for n := range 5 {
		answer := i.Do(http.MethodPost, "/naps", fmt.Sprintf(`{"id":"due-%d","for":"3s"}`, n))
		require.Equal(t, http.StatusAccepted, answer.Status, answer.Body)
		id := saga.ID("nap", fmt.Sprint("due-", n))
		as(t, i).ended(t, id, "completed")
		var s timedSaga
		i.Do(http.MethodGet, "/v1/sagas/"+id, "").JSON(t, &s)
		late := s.Steps[0].EndedAt.Sub(s.Steps[0].StartedAt) - 3*time.Second
		t.Logf("a delay of 3 s ended %s late", late)
		require.Less(t, late, time.Second)
	}
}

// A step runs for each of many items. The test prints how long this takes, and the size of the saga's history. ITEMS is the number of items.
func TestFigureOfItems(t *testing.T) {
	kittest.Long(t)
	items := "1000"
	if text := os.Getenv("ITEMS"); text != "" {
		items = text
	}
	i := one(t)
	db := kittest.OpenDB(t, i.DSN())
	for _, n := range []string{"10", "100", items} {
		id := place(t, i, "t-"+n, `"visa_checks":1,"travellers":`+n)
		as(t, i).inStep(t, id, "wait for approval", "in_progress")
		require.Equal(t, http.StatusAccepted, as(t, i).post("/v1/sagas/"+id+"/signals/approval", approved).Status)
		began := time.Now()
		kittest.Eventually(t, func() error {
			if s := as(t, i).saga(t, id); s.Status != "completed" {
				return fmt.Errorf("%s", s.Status)
			}
			return nil
		})
		took := time.Since(began)
		size := kittest.Column(t, db, `SELECT count(*) || ' events, ' || sum(length(payload::text)) / 1024 || ' KiB, the longest ' || max(length(payload::text)) FROM events WHERE stream = 'sagas/' || $1`, id)
		answer := i.Do(http.MethodGet, "/v1/sagas/"+id, "", as(t, i).header...)
		t.Logf("%s items, three at once: %s; %s bytes; GET /v1/sagas/{id} %d bytes", n, took.Round(time.Millisecond), size[0], len(answer.Body))
	}
}
