// Package chaos breaks everything around three instances while orders come in at a steady rate, and proves after each round of
// faults that nothing was lost and nothing happened twice. It needs a real PostgreSQL and Kafka, and CHAOS_CTL: a command that
// understands "stop|kill|start postgres|kafka" (docker compose does). make chaos sets all of it.
//
// CHAOS_SECONDS sets how long, CHAOS_SEED which faults in which order, CHAOS_RATE how many orders a second, CHAOS_KINDS only the
// kinds of fault of which a part of the name is in this list, separated by commas.
package chaos

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/service/demo/invariants"
	"github.com/millrace/millrace/tests/harness"
)

// restWithin is how long after a round of faults everything may take to come to rest.
const restWithin = 8 * time.Minute

func setting(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// stage is what faults act on.
type stage struct {
	t         *testing.T
	chance    *rand.Rand
	env       *harness.Environment
	sandbox   harness.Client
	instances []*harness.Instance
	busy      [3]sync.Mutex      // of the instances
	networks  []*kittest.Network // to PostgreSQL, one an instance
	db        *sql.DB
	driver    *driver
	prefix    string
	brokers   []string
	external  *external
}

func TestChaos(t *testing.T) {
	if !kittest.Real() || os.Getenv("CHAOS_CTL") == "" {
		t.Skip("needs POSTGRES_DSN, KAFKA_BROKERS and CHAOS_CTL, as make chaos sets them")
	}
	seconds, seed := setting(t, "CHAOS_SECONDS", 120), setting(t, "CHAOS_SEED", time.Now().UnixNano()%1_000_000)
	t.Logf("CHAOS_SEED=%d CHAOS_SECONDS=%d", seed, seconds)
	s := setUp(t, uint64(seed))
	defer s.wholeRun()()
	defer s.supervise()()

	records := map[string]*record{}
	deck, rounds := []fault{}, 0
	for began := time.Now(); time.Since(began) < time.Duration(seconds)*time.Second; rounds++ {
		var names []string
		s.driver.run(true)
		time.Sleep(time.Second)
		var going sync.WaitGroup
		for range 6 {
			if len(deck) == 0 { // every kind before any comes again
				deck = chosen(t, os.Getenv("CHAOS_KINDS"))
				s.chance.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
			}
			f := deck[0]
			deck = deck[1:]
			if records[f.name] == nil {
				records[f.name] = &record{}
			}
			names = append(names, f.name)
			act, delay, r := f.prepare(s), time.Duration(s.chance.Int64N(int64(4*time.Second))), records[f.name]
			going.Go(func() {
				time.Sleep(delay)
				r.begin(s.driver.inFlight())
				act()
			})
			if len(deck) == 0 && rounds == 0 && len(names) == len(records) {
				break // CHAOS_KINDS names fewer than a round has
			}
		}
		going.Wait()
		time.Sleep(2 * time.Second)
		s.driver.run(false)
		pause := s.driver.longestPause()
		rested := time.Now()
		report := s.rest(strings.Join(names, ", "))
		for _, name := range names {
			records[name].end(pause)
		}
		t.Logf("round %d, %3.0f s: %s: %d orders (%d confirmed), longest pause %.1f s, at rest after %.1f s", rounds+1, time.Since(began).Seconds(),
			strings.Join(names, ", "), report.Orders, report.Confirmed, pause.Seconds(), time.Since(rested).Seconds())
	}
	s.instances[0].Consistent() // with what stands in Kafka
	s.print(records, rounds)
}

// chosen are the kinds of faults of which a part of the name is in a list; all if it is empty.
func chosen(t *testing.T, kinds string) (deck []fault) {
	t.Helper()
	for _, f := range faults {
		for kind := range strings.SplitSeq(kinds, ",") {
			if strings.Contains(f.name, strings.TrimSpace(kind)) {
				deck = append(deck, f)
				break
			}
		}
	}
	require.NotEmpty(t, deck, "CHAOS_KINDS=%s names no fault", kinds)
	return deck
}

// setUp starts three instances, the second without local delivery, the third with a clock that is three hours ahead, each with a network of its own to PostgreSQL.
func setUp(t *testing.T, seed uint64) *stage {
	t.Helper()
	s := &stage{t: t, chance: rand.New(rand.NewPCG(seed, 1)), env: harness.NewEnvironment(t, "LOAD_DISTRIBUTION="+cmp.Or(os.Getenv("CHAOS_SPREAD"), "instances")), brokers: strings.Split(os.Getenv("KAFKA_BROKERS"), ",")}
	s.prefix = s.env.Prefix
	s.sandbox = s.env.Sandbox()
	dsn := s.env.DSN()
	s.db = kittest.OpenDB(t, dsn)
	for n := range 3 {
		network, through := kittest.ToPostgres(t, dsn)
		s.networks = append(s.networks, network)
		settings := []string{"POSTGRES_DSN=" + through, "POSTGRES_MAX_CONNS=24"}
		switch n {
		case 1:
			settings = append(settings, "LOCAL_DELIVERY=off") // the ways through Kafka are taken too
		case 2:
			settings = append(settings, "CLOCK_OFFSET=3h")
		}
		s.instances = append(s.instances, s.env.StartWith(settings...))
	}
	s.instances[0].Stock(100_000_000, "MUG-01", "TEE-02", "CAP-03")
	s.external = newExternal(s)
	s.driver = newDriver(s, float64(setting(t, "CHAOS_RATE", 50)))
	return s
}

// supervise starts an instance again that has ended by itself, as whoever runs services does.
func (s *stage) supervise() (done func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			time.Sleep(200 * time.Millisecond)
			for n, i := range s.instances {
				if s.busy[n].TryLock() {
					if i.Exited() {
						s.t.Logf("instance %d ended by itself: %s", n, lastLine(i.Output()))
						i.Again()
					}
					s.busy[n].Unlock()
				}
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndex(text, "\n")+1:]
}

// rest waits until every order is decided, every saga has ended, and the invariants hold.
func (s *stage) rest(after string) invariants.Report {
	s.t.Helper()
	client := invariants.Client{URL: s.instances[0].URL, HTTP: s.instances[0].HTTP(), AtLeast: s.driver.accepted(), SandboxURL: s.sandbox.URL}
	report, err := client.Wait(context.Background(), restWithin)
	require.NoError(s.t, err, after)
	if !report.Consistent() {
		s.lookInside()
		for n, i := range s.instances {
			output := i.Output()
			s.t.Logf("instance %d:\n%s", n, output[max(0, len(output)-6000):])
		}
	}
	require.Empty(s.t, report.Faults, "after: %s", after)
	s.settled(after)
	output, code := s.instances[0].Audit()
	require.Zero(s.t, code, "after: %s: the audit says\n%s", after, output)
	return report
}

// lookInside tells what is left where, for whoever has to find out why.
func (s *stage) lookInside() {
	for _, query := range []string{
		`SELECT 'blocked key ' || consumer || ' ' || encode(key, 'escape') || ' due ' || due_at || ' attempts ' || attempts || ' waiting ' || (
			SELECT COALESCE(string_agg(encode(message_id, 'escape'), ', ' ORDER BY id), '')
			FROM waiting_messages w WHERE w.consumer = b.consumer AND w.key = b.key) FROM blocked_keys b LIMIT 10`,
		`SELECT 'outbox ' || topic || ' ' || COALESCE(due_at::text, 'now') || ' ' || count(*) FROM outbox GROUP BY topic, due_at LIMIT 20`,
		`SELECT 'dead letter ' || consumer || ' ' || topic || ' ' || reason || ' ' || message_id FROM dead_letters WHERE dropped_at IS NULL LIMIT 10`,
		`SELECT 'saga ' || status || ' ' || saga_id FROM saga_instances WHERE status IN ('running', 'compensating', 'stuck') LIMIT 3`,
	} {
		for _, line := range kittest.Column(s.t, s.db, query) {
			s.t.Log(line)
		}
	}
}

// record is the report about a kind of fault.
type record struct {
	mu       sync.Mutex
	times    int
	inFlight int
	pause    time.Duration
}

func (r *record) begin(inFlight int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times++
	r.inFlight = max(r.inFlight, inFlight)
}

func (r *record) end(pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pause = max(r.pause, pause)
}

func (s *stage) print(records map[string]*record, rounds int) {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FAULT\tTIMES\tORDERS IN FLIGHT\tLONGEST PAUSE\tLOST\tDOUBLED")
	total := 0
	for _, f := range faults {
		if r := records[f.name]; r != nil {
			total += r.times
			// The invariants were checked after each of its rounds, or the test would have ended there.
			fmt.Fprintf(table, "%s\t%d\t%d\t%.1f s\t0\t0\n", f.name, r.times, r.inFlight, r.pause.Seconds())
		}
	}
	for _, name := range []string{"a clock three hours ahead", "a transaction left open"} {
		fmt.Fprintf(table, "%s\tthe whole run\t\t\t0\t0\n", name)
	}
	_ = table.Flush()
	s.t.Logf("the audit found nothing after any of the rounds")
	s.t.Logf("%d faults of %d kinds in %d rounds, %d orders accepted, %d requests not accepted\n%s", total, len(records)+2, rounds, s.driver.accepted(), s.driver.refused.Load(), out.String())
}
