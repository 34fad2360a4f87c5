package component

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

const messagesHandled = `millrace_handled_seconds_count{kind="message"`

// metric adds up the samples of a metric.
func metric(t *testing.T, i *harness.Instance, name string) (sum float64, err error) {
	t.Helper()
	_, body, err := i.Get("/metrics")
	for line := range strings.SplitSeq(body, "\n") {
		if rest, ok := strings.CutPrefix(line, name); ok && rest != "" && strings.Contains(" {,", rest[:1]) {
			v, err := strconv.ParseFloat(rest[strings.LastIndex(rest, " ")+1:], 64)
			require.NoError(t, err, line)
			sum += v
		}
	}
	return sum, err
}

// shards waits until some instances relay all shards between them, each a fair part: a quarter goes with each of the four partitions.
func shards(t *testing.T, instances ...*harness.Instance) {
	t.Helper()
	kittest.Eventually(t, func() error {
		total := 0.0
		for _, i := range instances {
			n, err := metric(t, i, "millrace_relay_shards")
			if err != nil {
				return err
			}
			if most := float64((4 + len(instances) - 1) / len(instances) * 4); n > most {
				return fmt.Errorf("one holds %v shards, of at most %v", n, most)
			}
			total += n
		}
		if total != 16 {
			return fmt.Errorf("%v shards are held", total)
		}
		return nil
	})
}

// several starts instances that share the work, although they run on one host, unless settings say otherwise.
func several(t *testing.T, n int, settings ...string) (*harness.Environment, []*harness.Instance) {
	t.Helper()
	w := harness.NewEnvironment(t, append([]string{"LOAD_DISTRIBUTION=instances"}, settings...)...)
	return w, severalIn(t, w, n)
}

func severalIn(t *testing.T, w *harness.Environment, n int) (all []*harness.Instance) {
	t.Helper()
	w.Sandbox()
	if !kittest.Real() {
		w.Host("ROLES=api") // PostgreSQL and Kafka are embedded in an instance that neither works nor is stopped
	}
	for range n {
		all = append(all, w.Start())
	}
	if n > 0 {
		all[0].Stock(10_000, "MUG-01", "TEE-02")
	}
	return all
}

// flow places orders through an instance, in enough number to meet every partition, and returns how long it took until all were
// decided.
func flow(t *testing.T, i *harness.Instance) time.Duration {
	t.Helper()
	began := time.Now()
	var ids []string
	for range 40 {
		ids = append(ids, i.Place("pm_ok", "MUG-01"))
	}
	for _, id := range ids {
		i.Decided(id)
	}
	return time.Since(began)
}

// Instances come and go; shards and partitions move, and every order comes to its end.
func TestInstancesShareTheWork(t *testing.T) {
	t.Parallel()
	w, all := several(t, 3)
	shards(t, all...)
	kittest.Eventually(t, func() error { // a consumer group may still be balancing
		flow(t, all[1])
		for n := range 3 {
			messages, err := metric(t, all[n], messagesHandled)
			if err != nil {
				return err
			}
			if messages == 0 {
				return fmt.Errorf("instance %d has handled nothing", n)
			}
		}
		return nil
	})

	all[0].Kill()
	killed := time.Now()
	t.Logf("40 orders, decided by the others %s after an instance was killed", flow(t, all[1]).Round(time.Millisecond))
	shards(t, all[1:]...)
	t.Logf("its shards were taken over within %s", time.Since(killed).Round(time.Millisecond))

	code, _ := all[2].Terminate()
	require.Zero(t, code)
	t.Logf("40 orders, decided %s after another one left", flow(t, all[1]).Round(time.Millisecond))
	shards(t, all[1])

	back := w.Start()
	shards(t, all[1], back)
	flow(t, back)
	all[1].Consistent()
}

// While the broker is away the sagas of several instances go on: the relay of a command's shard is in the instance that handles it. An order whose saga had not
// begun begins when the broker is back.
func TestStepsOfSeveralInstancesGoOnWithoutBroker(t *testing.T) {
	kittest.Long(t)
	w, stop, start := withStoppableBroker(t, "LOAD_DISTRIBUTION=instances")
	all := severalIn(t, w, 3)
	db := kittest.OpenDB(t, all[0].DSN())
	var last string
	var since time.Time
	kittest.Eventually(t, func() error { // groups are rebalanced after the last member has come, and an instance that takes shards in an outage does not know what was sent
		var apart int
		var owners string
		err := db.QueryRow(`SELECT count(*) FILTER (WHERE r.owner IS NULL), string_agg(l.owner, ',' ORDER BY l.shard) FROM relay_leases l
			LEFT JOIN relays r ON r.owner = l.owner AND l.shard = ANY(r.preferred) WHERE l.shard BETWEEN 16 AND 31`).Scan(&apart, &owners)
		if err == nil && apart > 0 {
			err = fmt.Errorf("%d shards are not with the instance that handles them", apart)
		}
		if owners != last || err != nil {
			last, since = owners, time.Now()
		}
		if settled := time.Since(since); err == nil && settled < 5*time.Second {
			err = fmt.Errorf("shards have moved %s ago", settled.Round(time.Millisecond))
		}
		return err
	})
	for _, i := range all {
		flow(t, i) // each knows what it has sent
	}
	sendToMissing(t, db)
	sandbox := harness.NewClient(t, w.SandboxURL())
	sandbox.SetFaults("payments", `{"latency":"4s"}`)
	const orders = 30
	for n := range orders {
		method := "pm_ok"
		if n == 0 {
			method = "pm_slow" // its deadline ends it
		}
		inStep(t, all[0], all[n%3].Place(method, "MUG-01"), "authorise payment")
	}
	stop()
	sandbox.SetFaults("payments", `{"latency":"0s"}`)
	late := all[1].Place("pm_ok", "MUG-01")
	eventuallyEnded(t, db, 120+orders-1, 1)
	start()
	require.Equal(t, "confirmed", all[2].Decided(late).Status)
	report := all[0].Consistent()
	require.Equal(t, 120+orders, report.Confirmed, "%+v", report)
	require.Equal(t, 120+orders+1, report.Orders, "%+v", report)
}

// An instance that alone does not reach PostgreSQL leaves its shards and its partitions to the others, and has some again when it does.
func TestAnInstanceIsCutOffFromPostgres(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w, all := several(t, 1)
	network, through := kittest.ToPostgres(t, all[0].DSN())
	cut := w.Start("POSTGRES_DSN=" + through)
	shards(t, all[0], cut)
	kittest.Eventually(t, func() error {
		flow(t, all[0])
		messages, err := metric(t, cut, messagesHandled)
		if err == nil && messages == 0 {
			err = errors.New("the other instance has handled nothing")
		}
		return err
	})

	network.Cut()
	t.Logf("40 orders, decided %s after an instance was cut off from PostgreSQL", flow(t, all[0]).Round(time.Millisecond))
	t.Logf("40 more, decided %s after that", flow(t, all[0]).Round(time.Millisecond))
	require.Equal(t, http.StatusOK, cut.Do(http.MethodGet, "/healthz", "").Status, "a restart would not help")
	require.Equal(t, http.StatusServiceUnavailable, cut.Do(http.MethodGet, "/readyz", "").Status)
	refused := cut.Do(http.MethodPost, "/v1/orders", harness.OrderBody("pm_ok", "MUG-01"))
	require.Equal(t, http.StatusServiceUnavailable, refused.Status, refused.Body)

	network.Heal()
	shards(t, all[0], cut)
	before, err := metric(t, cut, messagesHandled)
	require.NoError(t, err)
	kittest.Eventually(t, func() error {
		flow(t, cut)
		messages, err := metric(t, cut, messagesHandled)
		if err == nil && messages == before {
			err = errors.New("the instance that was cut off handles nothing")
		}
		return err
	})
	all[0].Consistent()
}

// An instance that is stopped for longer than its lease loses its shards and its partitions; when it goes on, it knows.
func TestAStoppedInstanceIsReplaced(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	_, all := several(t, 2)
	shards(t, all...)
	var ids []string
	for range 30 { // in the middle of these it is stopped
		ids = append(ids, all[1].Place("pm_ok", "TEE-02"))
	}
	all[0].Signal(syscall.SIGSTOP)
	stopped := time.Now()
	for _, id := range ids {
		all[1].Decided(id)
	}
	t.Logf("what was in its hands was decided %s later", time.Since(stopped).Round(time.Millisecond))
	flow(t, all[1])
	held, err := metric(t, all[1], "millrace_relay_shards")
	require.NoError(t, err)
	require.InDelta(t, 16, held, 0, "the other one has all shards")
	all[0].Signal(syscall.SIGCONT)
	shards(t, all...)
	flow(t, all[0])
	all[1].Consistent()
}

// Of the instances on a host the first one works; when it ends, in whatever way, the next one does.
func TestOneInstanceOfAHostWorks(t *testing.T) {
	kittest.Long(t)
	t.Parallel()
	w, all := several(t, 3, "LOAD_DISTRIBUTION=hosts")
	works := func(which int) {
		t.Helper()
		shards(t, all[which])
		before := handled(t, all)
		flow(t, all[2])
		for i, n := range handled(t, all) {
			if i == which {
				require.Greater(t, n, before[i])
			} else {
				require.InDelta(t, before[i], n, 0, "instance %d stands by", i)
			}
		}
	}
	works(0)
	all[0].Kill()
	killed := time.Now()
	shards(t, all[1])
	flow(t, all[2]) // the session of who was killed ends meanwhile
	t.Logf("40 orders, decided by the next one %s after the first was killed", time.Since(killed).Round(time.Millisecond))
	works(1)
	code, _ := all[1].Terminate()
	require.Zero(t, code)
	works(2)
	all[1] = w.Start()
	works(2) // who came later stands by
	all[2].Consistent()
}

// handled is how many messages each instance that runs has handled, and nothing of one that does not.
func handled(t *testing.T, all []*harness.Instance) []float64 {
	t.Helper()
	counts := make([]float64, len(all))
	for n, i := range all {
		if sum, err := metric(t, i, messagesHandled); err == nil {
			counts[n] = sum
		}
	}
	return counts
}

// Each instance does what its roles say, and says truthfully whether it can.
func TestRoles(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w, _ := several(t, 0)
	api := w.Start("ROLES=api")
	response := api.Do(http.MethodPost, "/v1/stock/MUG-01/receipts", `{"quantity":1000}`)
	require.Equal(t, http.StatusAccepted, response.Status)
	id := api.Place("pm_ok", "MUG-01")
	worker, relay := w.Start("ROLES=worker"), w.Start("ROLES=relay")
	require.Equal(t, "confirmed", api.Decided(id).Status)
	for _, i := range []*harness.Instance{worker, relay} {
		require.Equal(t, http.StatusNotFound, i.Do(http.MethodGet, "/v1/orders", "").Status, "only the api role serves the API")
		require.Equal(t, http.StatusOK, i.Do(http.MethodGet, "/healthz", "").Status)
	}
	held, err := metric(t, relay, "millrace_relay_shards")
	require.NoError(t, err)
	require.InDelta(t, 16, held, 0)
	api.Consistent()

	// Without Kafka the API can still accept; a worker and a relay can do nothing.
	for roles, want := range map[string]int{"api": http.StatusOK, "worker": http.StatusServiceUnavailable, "relay": http.StatusServiceUnavailable, "api,worker,relay": http.StatusOK} {
		lonely := w.Launch("ROLES="+roles, "KAFKA_BROKERS=127.0.0.1:1")
		kittest.Eventually(t, func() error {
			status, body, err := lonely.Get("/readyz")
			if err == nil && (status != want || !strings.Contains(body, "kafka: d")) {
				err = fmt.Errorf("%s: %d: %s", roles, status, body)
			}
			return err
		})
	}
}

// A static member that is killed and started again has its partitions back without waiting for its session to end.
func TestAStaticMemberComesBack(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w, _ := several(t, 0)
	i := w.StartWith("INSTANCE_ID=one")
	other := w.StartWith("INSTANCE_ID=two")
	i.Stock(1000, "MUG-01")
	flow(t, i)
	i.Kill()
	i.Restart()
	t.Logf("40 orders, decided %s after a static member was back", flow(t, i).Round(time.Millisecond))
	flow(t, other)
	other.Consistent()
}

// A clock that is wrong by minutes makes no deadline pass and no command expire.
func TestAWrongClockDoesNotMatter(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	_, all := several(t, 1)
	w := all[0].Environment()
	late, early := w.Start("CLOCK_OFFSET=-5m"), w.Start("CLOCK_OFFSET=5m")
	for _, i := range []*harness.Instance{late, early, all[0]} {
		flow(t, i)
	}
	report := all[0].Consistent()
	require.Equal(t, report.Orders, report.Confirmed, "%v", report.ByReason)
	require.Contains(t, late.Output(), "local clock differs from the database's clock")
}

// The same when the clock is wrong by hours, and all instances have that clock: the one clock is the database's. Kafka would refuse records
// that are hours ahead; timers, deadlines, tokens and the retention of ids do not follow the clock here.
func TestServiceWhoseClockIsHoursWrong(t *testing.T) {
	for _, offset := range []string{"3h", "-3h"} {
		t.Run(offset, func(t *testing.T) {
			t.Parallel()
			kittest.Long(t)
			i := harness.NewEnvironment(t, "CLOCK_OFFSET="+offset, "AUTH_SECRET="+secret, "RATE_LIMIT=0", "COURIER_URL=").Start()
			operator := []string{"Authorization", "Bearer " + token(t, "olga", "operator")}
			do := func(method, path, body string, into any, headers ...string) {
				t.Helper()
				response := i.Do(method, path, body, append(operator, headers...)...)
				require.Less(t, response.Status, 300, response.Body)
				if into != nil {
					response.JSON(t, into)
				}
			}
			do(http.MethodPost, "/v1/stock/MUG-01/receipts", `{"quantity":1000}`, nil)
			place := func(method string) (order harness.Order) {
				t.Helper()
				do(http.MethodPost, "/v1/orders", harness.OrderBody(method, "MUG-01"), &order, "Prefer", "wait=60", "Idempotency-Key", method)
				return order
			}
			ok := place("pm_ok")
			require.Equal(t, "confirmed", ok.Status, ok.Reason)
			require.Equal(t, ok.ID, place("pm_ok").ID, "the idempotency key is still known")
			slow := place("pm_slow") // a timer ends it
			kittest.Eventually(t, func() error {
				do(http.MethodGet, "/v1/orders/"+slow.ID, "", &slow)
				if slow.Status == "pending" {
					return errors.New("it is pending")
				}
				return nil
			})
			require.Equal(t, "cancelled", slow.Status)
			require.Contains(t, slow.Reason, "no answer in time")

			db := kittest.OpenDB(t, i.DSN())
			for name, statement := range map[string]string{
				"events":           `SELECT count(*)::text FROM events WHERE (meta->>'time')::timestamptz NOT BETWEEN now() - interval '10 minutes' AND now() + interval '1 minute'`,
				"dead letters":     `SELECT count(*)::text FROM dead_letters`,
				"blocked keys":     `SELECT count(*)::text FROM blocked_keys`,
				"suspended topics": `SELECT count(*)::text FROM suspended_topics`,
				"inbox":            `SELECT count(*)::text FROM inbox WHERE received_at NOT BETWEEN now() - interval '10 minutes' AND now() + interval '1 minute'`,
			} {
				require.Equal(t, []string{"0"}, kittest.Column(t, db, statement), name)
			}
			require.Contains(t, i.Output(), "local clock differs from the database's clock")
			var records int
			topics := []string{i.Topic("events.orders"), i.Topic("commands.payments"), i.Topic("events.payments")}
			require.NoError(t, kafka.ReadAll(t.Context(), kafka.Config{Brokers: i.Brokers()}, topics, func(_ string, msg *message.Message) error {
				records++
				at, err := time.Parse(time.RFC3339Nano, msg.Metadata["ce_time"])
				require.NoError(t, err)
				require.WithinDuration(t, time.Now(), at, 10*time.Minute)
				return nil
			}))
			require.Positive(t, records)
		})
	}
}

// An instance refuses requests only by what is stored now. It has a saga in memory as it was when an order was cancelled there, which is not
// stuck; another instance handles the saga's messages, and the saga gets stuck: from then on the first instance has to accept a retry. When the
// saga has ended, it has to refuse one.
func TestRefusalIsNotDecidedByStaleMemory(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w := harness.NewEnvironment(t, "LOAD_DISTRIBUTION=instances")
	sandbox := w.Sandbox()
	if !kittest.Real() {
		w.Host("ROLES=api")
	}
	worker, api := w.Start(), w.Start("ROLES=api")
	worker.Stock(1000, "MUG-01")
	sandbox.SetFaults("payments", `{"latency":"1s"}`)
	order := api.Place("pm_ok", "MUG-01")
	inStep(t, worker, order, "authorise payment")
	repair := failOn(t, worker, "inventory", "inventory/%", "inventory.released")
	response := api.Do(http.MethodPost, "/v1/orders/"+order+"/cancel", "")
	require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	path := "/v1/sagas/" + api.SagaOf(order).ID + "/retry"
	response = api.Do(http.MethodPost, path, "")
	require.Equal(t, http.StatusConflict, response.Status, response.Body)
	eventually(t, worker, order, "stuck")
	response = api.Do(http.MethodPost, path, "")
	require.Equal(t, http.StatusAccepted, response.Status, "it is stuck: %s", response.Body)
	repair()
	kittest.Eventually(t, func() error {
		if status := worker.SagaOf(order).Status; status != "compensated" {
			answer := api.Do(http.MethodPost, path, "") // the one before may have failed for the same cause
			return fmt.Errorf("the saga is %s, and a retry is answered %d", status, answer.Status)
		}
		return nil
	})
	response = api.Do(http.MethodPost, path, "")
	require.Equal(t, http.StatusConflict, response.Status, "it has ended: %s", response.Body)
	worker.Consistent()
}

// Two services on one database with one inbox: each has its own topics, groups and aggregates, and what one handles the other does
// not count as handled.
func TestTwoServicesOnOneDatabase(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	w, all := several(t, 1)
	other := w.Start("TOPIC_PREFIX=" + w.Prefix + "other")
	other.Stock(100, "CAP-03")
	var ids []string
	for range 10 {
		ids = append(ids, all[0].Place("pm_ok", "MUG-01"), other.Place("pm_ok", "CAP-03"))
	}
	for _, id := range ids {
		require.Equal(t, "confirmed", all[0].Decided(id).Status)
	}
	consistent(t, all[0], w.SandboxURL(), 20)
	require.Empty(t, deadLetters(t, all[0]))
	require.NotContains(t, all[0].Output()+other.Output(), "level=ERROR")
}
