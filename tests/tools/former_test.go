package tools

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// TestFormerProgramBesideTheCurrentOne is a rolling update across the kit's newest migration. The program from before it goes on, on the same
// PostgreSQL and Kafka, while the current one migrates and takes its share of the work. Orders end, also those that one of the two began before it
// was killed. kittest audits what both have stored.
func TestFormerProgramBesideTheCurrentOne(t *testing.T) {
	takesMinutes(t)
	if !kittest.Real() {
		t.Skip("needs a database that outlives the instances: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	program := former(t)
	e := harness.NewEnvironment(t, "LOAD_DISTRIBUTION=instances", "KAFKA_PARTITIONS=16")
	e.Sandbox()
	e.Program = program
	old := e.Start()
	old.Stock(100_000, "MUG-01", "TEE-02")
	e.Program = ""
	current := e.Start()

	orders := 0
	place := func() {
		var placing sync.WaitGroup
		for n, method := range []string{"pm_ok", "pm_declined", "pm_capture_refused", "pm_ok"} {
			placing.Go(func() {
				for range 20 {
					[]*harness.Instance{old, current}[n%2].Place(method, "MUG-01", "TEE-02")
				}
			})
		}
		placing.Wait()
		orders += 80
	}
	consistent := func(i *harness.Instance) {
		t.Helper()
		require.Equal(t, orders, i.Consistent().Orders)
		require.Contains(t, strings.ReplaceAll(i.Do(http.MethodGet, "/v1/dead-letters", "").Body, " ", ""), `"dead_letters":[]`)
	}
	for _, i := range []*harness.Instance{old, current} { // until the consumer groups are balanced
		kittest.Eventually(t, func() error {
			place()
			_, body, err := i.Get("/metrics")
			if err == nil && !strings.Contains(body, `millrace_handled_seconds_count{kind="message"`) {
				err = errors.New("it has handled no message")
			}
			return err
		})
	}
	consistent(current)

	place()
	current.Kill()
	consistent(old)
	current.Restart()
	place()
	old.Kill()
	consistent(current)

	e.Program = program
	late := e.Launch()
	require.Equal(t, 1, late.Wait())
	require.Contains(t, late.Output(), "the database's schema is newer than this program")
	e.Program = ""
}

// former is the source of the commit before the one that added the kit's newest migration.
func former(t *testing.T) (dir string) {
	t.Helper()
	template, source := mine{t, "../.."}, mine{t, t.TempDir()}
	added, err := template.run("git", "log", "-1", "--diff-filter=A", "--format=%H", "--", "kit/postgres/migrations/*.sql")
	revision := strings.TrimSpace(added) + "^"
	if err == nil {
		_, err = template.run("git", "cat-file", "-e", revision)
	}
	if err != nil {
		t.Skip("needs the template's history: ", err)
	}
	t.Log("the former program is that of ", template.must("git", "log", "-1", "--format=%h %s", revision))
	template.must("git", "archive", "-o", source.dir+"/source.tar", revision)
	source.must("tar", "-xf", "source.tar")
	return source.dir
}
