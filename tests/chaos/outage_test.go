package chaos

import (
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// While Kafka is away for a minute (a fifth of CHAOS_SECONDS, if that is less), every order is accepted, and afterwards each is decided.
func TestAMinuteWithoutKafka(t *testing.T) {
	ctl := os.Getenv("CHAOS_CTL")
	if !kittest.Real() || ctl == "" {
		t.Skip("needs POSTGRES_DSN, KAFKA_BROKERS and CHAOS_CTL, as make chaos sets them")
	}
	length := min(time.Minute, time.Duration(setting(t, "CHAOS_SECONDS", 120))*time.Second/5)
	i := harness.NewEnvironment(t).Start()
	i.Stock(10_000, "MUG-01")
	run := func(verb string) {
		out, err := exec.Command("bash", "-c", ctl+" "+verb+" kafka").CombinedOutput() // the tester's own
		require.NoError(t, err, "%s", out)
	}
	run("stop")
	placed := 0
	for until := time.Now().Add(length); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		i.Place("pm_ok", "MUG-01") // fails if it is not accepted
		placed++
	}
	ready := i.Do(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, ready.Status, ready.Body)
	run("start")
	report := i.Consistent()
	require.Equal(t, placed, report.Orders)
	t.Logf("%d orders placed within %s without Kafka: all accepted, all decided, %d confirmed", placed, length, report.Confirmed)
}
