package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/saga"
)

func letter(t *testing.T, i *kittest.Instance, name, trip string) {
	t.Helper()
	answer := i.Do(http.MethodPost, "/letters", fmt.Sprintf(`{"letter":%q,"trip":%q}`, name, trip))
	require.Equal(t, http.StatusAccepted, answer.Status, answer.Body)
}

// unmatched returns the definitions and keys of the events that no saga waits for.
func unmatched(t *testing.T, i *kittest.Instance) (keys []string) {
	t.Helper()
	var list struct {
		Events []struct{ Definition, Key string }
	}
	i.Do(http.MethodGet, "/v1/sagas/unmatched-events", "", as(t, i, "operator").header...).JSON(t, &list)
	for _, e := range list.Events {
		keys = append(keys, e.Definition+" "+e.Key)
	}
	return keys
}

// Letters arrive before the saga waits for them, while it waits, twice, and without a saga.
func TestAwaitedEvents(t *testing.T) {
	a, b := start(t)
	letter(t, a, "l-1", "early")
	letter(t, b, "l-2", "nobody")
	kittest.Eventually(t, func() error {
		if kept := unmatched(t, a); len(kept) != 2 {
			return fmt.Errorf("kept: %v", kept)
		}
		return nil
	})
	early := place(t, b, "early", `"documents":true`)
	late := place(t, a, "late", `"documents":true`)
	as(t, a).inStep(t, early, "wait for approval", "in_progress")
	as(t, a).inStep(t, late, "await documents", "in_progress")
	kittest.Eventually(t, func() error {
		if got := booked(t, a, "late")["reminder"]; got != "reminded" {
			return fmt.Errorf("no reminder, but %q", got)
		}
		return nil
	})
	require.Equal(t, "in_progress", as(t, b).saga(t, late).Statuses()["await documents"], "it goes on waiting")
	letter(t, b, "l-3", "late")
	as(t, b).inStep(t, late, "wait for approval", "in_progress")
	letter(t, b, "l-4", "late")
	kittest.Eventually(t, func() error {
		if kept := unmatched(t, b); fmt.Sprint(kept) != "[trip late trip nobody]" {
			return fmt.Errorf("kept: %v", kept)
		}
		return nil
	})
	output, code := commandLine(t, a, "sagas", "unmatched")
	require.Zero(t, code, output)
	require.Contains(t, output, "main.DocumentsDelivered")

	// Each letter also started an itinerary, which is sent once, after the trip was requested.
	for _, trip := range []string{"early", "late"} {
		as(t, a).ended(t, saga.ID("itinerary", trip), "completed")
		require.Equal(t, "itinerary-sent", booked(t, a, trip)["itinerary"])
	}
	require.Equal(t, "in_progress", as(t, a).saga(t, saga.ID("itinerary", "nobody")).Statuses()["await TripRequested"])
}

// Events and waits arrive at the same time on two instances, one of which is killed. No event is lost, and none counts twice.
func TestAwaitedEventsWhileAnInstanceIsKilled(t *testing.T) {
	a, b := start(t)
	if !kittest.Real() {
		a.Joined(2)
	}
	const trips = 80
	var all sync.WaitGroup
	for n := range trips {
		trip := fmt.Sprint("t-", n)
		all.Go(func() { place(t, a, trip, `"documents":true`) })
		all.Go(func() {
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			letter(t, a, "l-"+trip, trip)
		})
	}
	time.Sleep(700 * time.Millisecond)
	b.Kill()
	all.Wait()
	for n := range trips {
		trip := fmt.Sprint("t-", n)
		as(t, a).inStep(t, saga.ID("trip", trip), "wait for approval", "in_progress")
		as(t, a).ended(t, saga.ID("itinerary", trip), "completed")
		require.Equal(t, "itinerary-sent", booked(t, a, trip)["itinerary"])
	}
	require.Empty(t, unmatched(t, a))
}

// A child saga is completed, refused, and compensated after it was completed.
func TestChildSagas(t *testing.T) {
	a, b := start(t)
	completed := place(t, a, "t-1", `"hotel":true`)
	refused := place(t, b, "t-2", `"hotel":true,"bookings":{"breakfast":{"refused":"no breakfast"}}`)
	late := place(t, b, "t-3", `"hotel":true,"visa_checks":100`)
	c := as(t, a, "operator")

	c.inStep(t, completed, "wait for approval", "in_progress")
	require.Equal(t, map[string]string{"seat": "held", "room": "held", "car": "held", "suite": "held", "breakfast": "held", "visa": "visa-checked"}, booked(t, a, "t-1"))
	require.Equal(t, http.StatusAccepted, c.post("/v1/sagas/"+completed+"/signals/approval", approved).Status)
	c.ended(t, completed, "completed")

	require.Equal(t, "no breakfast", c.ended(t, refused, "compensated").Reason)
	undone := map[string]string{
		"seat": "held released", "room": "held released", "car": "held released", "suite": "held released", "breakfast": "refused", "hotel": "released",
	}
	require.Equal(t, undone, booked(t, a, "t-2"))

	c.ended(t, late, "compensated")
	found := booked(t, a, "t-3")
	delete(found, "visa")
	undone["breakfast"] = "held released"
	require.Equal(t, undone, found)

}

// A small connection pool is enough for many sagas that begin to wait for events at the same time: units of work with a transaction of their own leave
// connections to the group commits that they wait for.
func TestAwaitedEventsWithASmallPool(t *testing.T) {
	a, _ := start(t, "POSTGRES_MAX_CONNS=8")
	const trips = 150
	began := time.Now()
	var all sync.WaitGroup
	for n := range trips {
		all.Go(func() { place(t, a, fmt.Sprint("t-", n), `"documents":true`) })
	}
	all.Wait()
	for n := range trips {
		as(t, a).inStep(t, saga.ID("trip", fmt.Sprint("t-", n)), "await documents", "in_progress")
	}
	for n := range trips {
		all.Go(func() { letter(t, a, fmt.Sprint("l-", n), fmt.Sprint("t-", n)) })
	}
	all.Wait()
	for n := range trips {
		as(t, a).inStep(t, saga.ID("trip", fmt.Sprint("t-", n)), "wait for approval", "in_progress")
	}
	require.Less(t, time.Since(began), 20*time.Second)
}
