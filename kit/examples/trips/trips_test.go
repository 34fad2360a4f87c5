package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/saga"
)

const secret = "a secret of at least thirty-two characters"

// start starts two instances that share the work, on the embedded PostgreSQL and Kafka of a third instance, or on real ones. After the test, kittest
// audits the stored data.
func start(t *testing.T, more ...string) (a, b *kittest.Instance) {
	t.Helper()
	e := kittest.NewEnvironment(t, append([]string{"LOAD_DISTRIBUTION=instances", "REFUSALS=" + t.TempDir()}, more...)...)
	e.Program = "."
	if !kittest.Real() {
		e.Host("ROLES=api")
	}
	return e.Start(), e.Start()
}

// place requests a trip, and returns the id of its saga. Fields are those of RequestTrip in JSON.
func place(t *testing.T, i *kittest.Instance, trip, fields string) (sagaID string) {
	t.Helper()
	answer := i.Do(http.MethodPost, "/trips", fmt.Sprintf(`{"id":%q,%s}`, trip, fields))
	require.Equal(t, http.StatusAccepted, answer.Status, answer.Body)
	return saga.ID("trip", trip)
}

// client calls an instance with a token.
type client struct {
	*kittest.Instance
	header []string
}

func as(t *testing.T, i *kittest.Instance, roles ...string) client {
	t.Helper()
	claims := jwt.MapClaims{"sub": "ada", "roles": roles, "exp": time.Now().Add(time.Hour).Unix()}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	require.NoError(t, err)
	return client{i, []string{"Authorization", "Bearer " + token}}
}

func (c client) post(path, body string, headers ...string) kittest.Response {
	return c.Do(http.MethodPost, path, body, append(headers, c.header...)...)
}

func (c client) saga(t *testing.T, id string) (s kittest.Saga) {
	t.Helper()
	c.Do(http.MethodGet, "/v1/sagas/"+id, "", c.header...).JSON(t, &s)
	return s
}

// until waits until a condition holds for a saga, and returns the saga. What describes the condition.
func (c client) until(t *testing.T, id, what string, holds func(kittest.Saga) bool) (s kittest.Saga) {
	t.Helper()
	kittest.Eventually(t, func() error {
		if answer := c.Do(http.MethodGet, "/v1/sagas/"+id, "", c.header...); answer.Status == http.StatusNotFound {
			return fmt.Errorf("%s has not started", id)
		}
		if s = c.saga(t, id); !holds(s) {
			return fmt.Errorf("%s: not %s, but %+v", id, what, s)
		}
		return nil
	})
	return s
}

func (c client) ended(t *testing.T, id, status string) kittest.Saga {
	t.Helper()
	return c.until(t, id, status, func(s kittest.Saga) bool { return s.Status == status })
}

func (c client) inStep(t *testing.T, id, step, status string) kittest.Saga {
	t.Helper()
	return c.until(t, id, step+" "+status, func(s kittest.Saga) bool { return s.Statuses()[step] == status })
}

// booked returns the events of each booking of a trip, in order and separated by spaces, for example "held released", by the booking's name.
func booked(t *testing.T, i *kittest.Instance, trip string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, row := range kittest.Column(t, kittest.OpenDB(t, i.DSN()),
		`SELECT split_part(stream, '.', 2) || ' ' || split_part(type, '.', 2) FROM events WHERE stream LIKE 'bookings/' || $1 || '.%' ORDER BY position`, trip) {
		name, event, _ := strings.Cut(row, " ")
		all[name] = strings.TrimSpace(all[name] + " " + event)
	}
	return all
}

const approved = `{"accepted":true,"nights":2,"note":"fine"}`

func TestTripToItsEnd(t *testing.T) {
	a, b := start(t)
	c := as(t, a)
	id := place(t, a, "t-1", `"cooling_off":"700ms","visa_checks":3`)
	s := c.inStep(t, id, "wait for approval", "in_progress")
	require.Equal(t, map[string]string{
		"hold seat": "completed", "hold room": "completed", "hold car": "completed", "hold insurance": "skipped", "book hotel": "skipped", "await documents": "skipped", "cooling off": "completed",
		"check visa": "completed", "wait for approval": "in_progress", "charge card": "waiting", "issue ticket": "waiting", "confirm trip": "waiting",
	}, s.Statuses())
	require.Equal(t, map[string]string{"seat": "held", "room": "held", "car": "held", "visa": "visa-checked visa-checked visa-checked"}, booked(t, a, "t-1"))
	require.Equal(t, http.StatusAccepted, as(t, b).post("/v1/sagas/"+id+"/signals/approval", approved).Status)
	c.ended(t, id, "completed")

	insured := place(t, b, "t-2", `"luggage":true`)
	require.Equal(t, "completed", c.inStep(t, insured, "wait for approval", "in_progress").Statuses()["hold insurance"])
}

// Without Kafka, on tables of PostgreSQL: parallel steps, an awaited event, a child saga, a signal and a step for each traveller, while an instance
// is killed.
func TestTripsWithPostgresInKafkasPlace(t *testing.T) {
	a, b := start(t, "BROKER=postgres", "KAFKA_BROKERS=")
	require.Contains(t, a.Output(), "tables of PostgreSQL")
	const trips = 12
	ids := map[string]string{}
	for n := range trips {
		trip, car := fmt.Sprint("t-", n), ""
		if n%3 == 0 {
			car = `,"refused":"no car"`
		}
		ids[trip] = place(t, a, trip, `"visa_checks":2,"documents":true,"hotel":true,"travellers":5,"bookings":{"seat":{"takes":"200ms"},"car":{"takes":"100ms"`+car+`}}`)
		letter(t, b, "l-"+trip, trip)
	}
	c := as(t, a)
	c.inStep(t, ids["t-1"], "wait for approval", "in_progress")
	b.Kill()
	for n := range trips {
		trip := fmt.Sprint("t-", n)
		found := map[string]string{"seat": "held", "room": "held", "car": "held", "suite": "held", "breakfast": "held", "itinerary": "itinerary-sent"}
		if n%3 == 0 {
			require.Equal(t, "no car", c.ended(t, ids[trip], "compensated").Reason)
			found = map[string]string{"seat": "held released", "room": "held released", "car": "refused", "itinerary": "itinerary-sent"}
		} else {
			c.inStep(t, ids[trip], "wait for approval", "in_progress")
			require.Equal(t, http.StatusAccepted, c.post("/v1/sagas/"+ids[trip]+"/signals/approval", approved).Status)
			c.ended(t, ids[trip], "completed")
		}
		c.ended(t, saga.ID("itinerary", trip), "completed")
		got := booked(t, a, trip)
		delete(got, "visa")
		for name := range got {
			if strings.HasPrefix(name, "ticket") {
				delete(got, name)
			}
		}
		require.Equal(t, found, got, trip)
	}
	require.Equal(t, []string{"40"}, kittest.Column(t, kittest.OpenDB(t, a.DSN()), `SELECT count(*)::text FROM events WHERE type = 'booking.ticket-issued'`))
}

// One of three parallel steps is refused while the slow participants of the other steps are still working; they accept later.
func TestRefusalInAStageCompensatesEachActionOnce(t *testing.T) {
	a, b := start(t)
	refusedFirst := place(t, a, "t-1", `"bookings":{"seat":{"takes":"1500ms"},"room":{"takes":"1s"},"car":{"takes":"100ms","refused":"no car"}}`)
	refusedLast := place(t, b, "t-2", `"bookings":{"car":{"takes":"1s","refused":"no car"}}`)
	later := place(t, b, "t-3", `"luggage":true,"bookings":{"insurance":{"refused":"too old"}}`)
	for id, reason := range map[string]string{refusedFirst: "no car", refusedLast: "no car", later: "too old"} {
		require.Equal(t, reason, as(t, a).ended(t, id, "compensated").Reason)
	}
	require.Equal(t, map[string]string{"seat": "held released", "room": "held released", "car": "refused"}, booked(t, a, "t-1"))
	require.Equal(t, map[string]string{"seat": "held released", "room": "held released", "car": "refused"}, booked(t, a, "t-2"))
	require.Equal(t, map[string]string{"seat": "held released", "room": "held released", "car": "held released", "insurance": "refused"}, booked(t, a, "t-3"))
	require.Equal(t, map[string]string{
		"hold seat": "compensated", "hold room": "compensated", "hold car": "refused", "hold insurance": "waiting", "book hotel": "waiting", "await documents": "waiting",
		"cooling off": "waiting",
		"check visa":  "waiting", "wait for approval": "waiting", "charge card": "waiting", "issue ticket": "waiting", "confirm trip": "waiting", "cancel trip": "completed",
	}, as(t, a).saga(t, refusedFirst).Statuses())
}

func TestUntilThatNeverHoldsCompensates(t *testing.T) {
	a, _ := start(t)
	id := place(t, a, "t-1", `"visa_checks":100`)
	require.Contains(t, as(t, a).ended(t, id, "compensated").Reason, "10 attempts")
	require.Equal(t, map[string]string{
		"seat": "held released", "room": "held released", "car": "held released", "visa": strings.TrimSpace(strings.Repeat("visa-checked ", 10)),
	}, booked(t, a, "t-1"))
}

func TestSignalByHTTP(t *testing.T) {
	a, b := start(t, "AUTH_SECRET="+secret, "RATE_LIMIT=1000")
	operator, manager, customer := as(t, b, "operator"), as(t, a, "customer", "manager"), as(t, a, "customer")
	id := place(t, a, "t-1", `"cooling_off":"1500ms"`)
	path := "/v1/sagas/" + id + "/signals/approval"

	operator.inStep(t, id, "cooling off", "in_progress")
	require.Equal(t, http.StatusConflict, manager.post(path, approved).Status, "too early")
	operator.inStep(t, id, "wait for approval", "in_progress")
	refused := customer.post(path, approved)
	require.Equal(t, http.StatusForbidden, refused.Status, refused.Body)
	require.Contains(t, refused.Body, "operator, manager")
	for _, wrong := range []struct {
		body, field string
		status      int
	}{
		{`{"accepted":true,"nights":"two"}`, "nights", http.StatusBadRequest}, // not the format of the payload
		{`{"accepted":true,"nights":2,"colour":"red"}`, "colour", http.StatusBadRequest},
		{`{"accepted":true,"nights":0}`, "nights", http.StatusUnprocessableEntity}, // Validate refuses it
	} {
		answer := manager.post(path, wrong.body)
		require.Equal(t, wrong.status, answer.Status, answer.Body)
		var problem kittest.Problem
		answer.JSON(t, &problem)
		require.Len(t, problem.Errors, 1, answer.Body)
		require.Equal(t, wrong.field, problem.Errors[0].Field)
	}
	unknown := manager.post("/v1/sagas/"+id+"/signals/nothing", approved)
	require.Equal(t, http.StatusNotFound, unknown.Status, unknown.Body)
	require.Equal(t, http.StatusNotFound, manager.post("/v1/sagas/"+saga.ID("trip", "nobody")+"/signals/approval", approved).Status)

	require.Equal(t, http.StatusAccepted, manager.post(path, approved, "Idempotency-Key", "k-1").Status)
	require.Equal(t, http.StatusAccepted, manager.post(path, approved, "Idempotency-Key", "k-1").Status, "the same request again")
	require.Equal(t, http.StatusConflict, manager.post(path, approved).Status, "a second signal")
	operator.ended(t, id, "completed")
	require.Equal(t, []string{`{"accepted":true,"nights":2,"note":"fine"} ada`}, kittest.Column(t, kittest.OpenDB(t, a.DSN()),
		`SELECT (payload->'payload')::text || ' ' || (payload->>'by') FROM events WHERE stream = 'sagas/' || $1 AND type = 'saga.signal-received'`, id))
	require.Equal(t, []string{"1"}, kittest.Column(t, kittest.OpenDB(t, a.DSN()), `SELECT count(*)::text FROM events WHERE type = 'trip.card-charged'`))
}

// Many clients send a signal at once, through two instances. The signal counts once.
func TestSignalsAtOnceCountOnce(t *testing.T) {
	a, b := start(t)
	id := place(t, a, "t-1", `"visa_checks":1`)
	as(t, a).inStep(t, id, "wait for approval", "in_progress")
	statuses := make(chan int)
	for n := range 20 {
		go func() {
			answer, err := []*kittest.Instance{a, b}[n%2].Try(http.MethodPost, "/v1/sagas/"+id+"/signals/approval", approved)
			if err != nil {
				answer.Status = -1
			}
			statuses <- answer.Status
		}()
	}
	counts := map[int]int{}
	for range 20 {
		counts[<-statuses]++
	}
	require.Equal(t, map[int]int{http.StatusAccepted: 1, http.StatusConflict: 19}, counts)
	as(t, a).ended(t, id, "completed")
}

// commandLine runs a command of the program against an instance, and returns its output and exit code.
func commandLine(t *testing.T, i *kittest.Instance, args ...string) (output string, code int) {
	t.Helper()
	command := i.Environment().Command(append(args, "--url", i.URL)...)
	out, _ := command.CombinedOutput()
	return string(out), command.ProcessState.ExitCode()
}

func TestSignalByCommandLineAndPage(t *testing.T) {
	a, b := start(t)
	id := place(t, a, "t-1", `"visa_checks":1`)
	as(t, a).inStep(t, id, "wait for approval", "in_progress")
	shown, code := commandLine(t, b, "sagas", "show", id)
	require.Zero(t, code, shown)
	require.Contains(t, shown, "waits for signal approval")
	require.Contains(t, shown, "skipped")
	wrong, code := commandLine(t, b, "sagas", "signal", id, "approval", "--payload", `{"nights":0}`)
	require.NotZero(t, code, wrong)
	require.Contains(t, wrong, "nights")
	sent, code := commandLine(t, b, "sagas", "signal", id, "approval", "--payload", approved)
	require.Zero(t, code, sent)
	as(t, a).ended(t, id, "completed")
	late, code := commandLine(t, b, "sagas", "signal", id, "approval", "--payload", approved)
	require.NotZero(t, code, late)
	require.Contains(t, late, "does not wait for this signal")

	byForm := place(t, a, "t-2", `"visa_checks":1`)
	as(t, a).inStep(t, byForm, "wait for approval", "in_progress")
	post := func(body string) kittest.Response {
		return b.Do(http.MethodPost, "/ui/sagas/"+byForm+"/signals/approval", body, "Content-Type", "application/x-www-form-urlencoded")
	}
	require.Contains(t, post("accepted=yes&nights=2&note=fine").Body, "Send the signal approval")
	require.Equal(t, "in_progress", as(t, a).saga(t, byForm).Statuses()["wait for approval"], "the page has only asked")
	faulty := post("sure=yes&nights=0")
	require.Equal(t, http.StatusUnprocessableEntity, faulty.Status)
	require.Contains(t, faulty.Body, "nights")
	post("sure=yes&accepted=yes&nights=2&note=fine")
	as(t, a).ended(t, byForm, "completed")
}

// A step runs for each traveller. Two tickets are refused after the pivot, and an operator decides about each ticket by its name.
func TestStuckItemsAreDecidedApart(t *testing.T) {
	a, b := start(t)
	refusals := a.Environment().Setting("REFUSALS")
	for _, name := range []string{"t-1.ticket-3", "t-1.ticket-5"} {
		require.NoError(t, os.WriteFile(filepath.Join(refusals, name), nil, 0o600))
	}
	id := place(t, a, "t-1", `"visa_checks":1,"travellers":7`)
	as(t, a).inStep(t, id, "wait for approval", "in_progress")
	require.Equal(t, http.StatusAccepted, as(t, a).post("/v1/sagas/"+id+"/signals/approval", approved).Status)
	tickets := func(s kittest.Saga) kittest.Step {
		return s.Steps[slices.IndexFunc(s.Steps, func(step kittest.Step) bool { return step.Name == "issue ticket" })]
	}
	s := as(t, a).until(t, id, "stuck at two tickets", func(s kittest.Saga) bool {
		return s.Status == "stuck" && reflect.DeepEqual(tickets(s).Items, map[string]int{"completed": 5, "in_progress": 2})
	})
	var names []string
	for _, item := range tickets(s).InFlight {
		require.True(t, item.Stuck)
		names = append(names, item.Name)
	}
	require.Equal(t, []string{"issue ticket#3", "issue ticket#5"}, names)
	shown, code := commandLine(t, b, "sagas", "show", id)
	require.Zero(t, code, shown)
	require.Contains(t, shown, "5 completed, 2 in_progress, stuck")
	require.Contains(t, shown, "  issue ticket#3")

	output, code := commandLine(t, b, "sagas", "retry", id, "--step", "issue ticket")
	require.NotZero(t, code)
	require.Contains(t, output, "issue ticket#3, issue ticket#5")
	require.NoError(t, os.Remove(filepath.Join(refusals, "t-1.ticket-3")))
	output, code = commandLine(t, b, "sagas", "retry", id, "--step", "issue ticket#3")
	require.Zero(t, code, output)
	as(t, a).until(t, id, "stuck at one ticket", func(s kittest.Saga) bool { return s.Status == "stuck" && tickets(s).Items["completed"] == 6 })
	require.Equal(t, http.StatusAccepted, as(t, b).post("/v1/sagas/"+id+"/skip", `{"step":"issue ticket#5","reason":"printed by hand"}`).Status)
	require.Equal(t, map[string]int{"completed": 7}, tickets(as(t, a).ended(t, id, "completed")).Items)
	require.Equal(t, []string{"6"}, kittest.Column(t, kittest.OpenDB(t, a.DSN()), `SELECT count(*)::text FROM events WHERE type = 'booking.ticket-issued'`))
}

// Two compensations of a stage are refused, and an operator decides about each.
func TestTwoStuckStepsAreDecidedApart(t *testing.T) {
	a, b := start(t)
	refusals := a.Environment().Setting("REFUSALS")
	for _, name := range []string{"t-1.seat", "t-1.room", "t-2.seat", "t-2.room"} {
		require.NoError(t, os.WriteFile(filepath.Join(refusals, name), nil, 0o600))
	}
	stuck := func(trip string) string {
		id := place(t, a, trip, `"bookings":{"car":{"takes":"300ms","refused":"no car"}}`)
		kittest.Eventually(t, func() error {
			var s struct {
				Steps []struct{ Stuck bool } `json:"steps"`
			}
			if err := json.Unmarshal([]byte(a.Do(http.MethodGet, "/v1/sagas/"+id, "").Body), &s); err != nil {
				return err
			}
			n := 0
			for _, step := range s.Steps {
				if step.Stuck {
					n++
				}
			}
			if n != 2 {
				return fmt.Errorf("%d steps are stuck", n)
			}
			return nil
		})
		return id
	}
	byHTTP, byCommand := stuck("t-1"), stuck("t-2")
	for _, action := range []string{"retry", "skip", "resolve"} {
		answer := as(t, a).post("/v1/sagas/"+byHTTP+"/"+action, map[bool]string{true: `{}`, false: `{"reason":"by hand"}`}[action == "retry"])
		require.Equal(t, http.StatusConflict, answer.Status, answer.Body)
		require.Contains(t, answer.Body, "hold seat, hold room", action)
	}
	output, code := commandLine(t, b, "sagas", "retry", byCommand)
	require.NotZero(t, code)
	require.Contains(t, output, "hold seat, hold room")
	other := as(t, a).post("/v1/sagas/"+byHTTP+"/retry", `{"step":"hold car"}`)
	require.Equal(t, http.StatusConflict, other.Status, other.Body)
	require.Contains(t, other.Body, "hold seat, hold room")

	for _, name := range []string{"t-1.seat", "t-2.seat"} {
		require.NoError(t, os.Remove(filepath.Join(refusals, name)))
	}
	require.Equal(t, http.StatusAccepted, as(t, b).post("/v1/sagas/"+byHTTP+"/retry", `{"step":"hold seat"}`).Status)
	output, code = commandLine(t, b, "sagas", "retry", byCommand, "--step", "hold seat")
	require.Zero(t, code, output)
	for _, id := range []string{byHTTP, byCommand} {
		require.Equal(t, "stuck", as(t, a).inStep(t, id, "hold seat", "compensated").Status, "the room still is")
	}
	require.Equal(t, http.StatusAccepted, as(t, b).post("/v1/sagas/"+byHTTP+"/skip", `{"step":"hold room","reason":"by telephone"}`).Status)
	output, code = commandLine(t, b, "sagas", "skip", byCommand, "--step", "hold room", "--reason", "by telephone")
	require.Zero(t, code, output)
	for trip, id := range map[string]string{"t-1": byHTTP, "t-2": byCommand} {
		as(t, a).ended(t, id, "compensated")
		require.Equal(t, map[string]string{"seat": "held released", "room": "held", "car": "refused"}, booked(t, a, trip))
	}
}

// An instance is killed while stages are in flight. Each trip is completed, or compensated exactly once.
func TestKillInTheMiddleOfStages(t *testing.T) {
	a, b := start(t)
	if !kittest.Real() {
		a.Joined(2)
	}
	const trips = 60
	ids := map[string]string{}
	for n := range trips {
		trip, car := fmt.Sprint("t-", n), ""
		if n%3 == 0 {
			car = `,"refused":"no car"`
		}
		ids[trip] = place(t, a, trip, `"visa_checks":1,"bookings":{"seat":{"takes":"1s"},"room":{"takes":"400ms"},"car":{"takes":"700ms"`+car+`}}`)
	}
	kittest.Eventually(t, func() error { // some stages are partly completed
		if len(kittest.Column(t, kittest.OpenDB(t, a.DSN()), `SELECT stream FROM events WHERE type = 'booking.held' LIMIT 10`)) < 10 {
			return fmt.Errorf("no bookings yet")
		}
		return nil
	})
	b.Kill()
	completed := 0
	for n := range trips {
		trip := fmt.Sprint("t-", n)
		id := ids[trip]
		s := as(t, a).until(t, id, "waiting or compensated", func(s kittest.Saga) bool {
			return s.Status == "compensated" || s.Statuses()["wait for approval"] == "in_progress"
		})
		found := booked(t, a, trip)
		delete(found, "visa")
		if s.Status == "running" {
			completed++
			require.NotZero(t, n%3, "its car was refused")
			require.Equal(t, http.StatusAccepted, as(t, a).post("/v1/sagas/"+id+"/signals/approval", approved).Status)
			as(t, a).ended(t, id, "completed")
			require.Equal(t, map[string]string{"seat": "held", "room": "held", "car": "held"}, found, trip)
			continue
		}
		for name, events := range found {
			require.Contains(t, []string{"held released", "refused", "released", "refused released"}, events, "%s of %s", name, trip)
		}
	}
	t.Logf("%d of %d trips completed", completed, trips)
	kittest.Eventually(t, func() error {
		output, code := a.Audit()
		if code != 0 {
			return fmt.Errorf("audit: %d: %s", code, output)
		}
		return nil
	})
}
