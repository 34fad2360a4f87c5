// Package limits runs the service with little memory, few file descriptors, a full disk and no free connection.
package limits

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/kit/messaging"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/tests/harness"
)

func TestMain(m *testing.M) { kittest.Main(m) }

// mb256 is what deploy/kubernetes requests.
const mb256 = 256 << 20

// orNightly chooses the short form of a test, or, with NIGHTLY=1, the whole one.
func orNightly[T any](short, whole T) T {
	if os.Getenv("NIGHTLY") == "1" {
		return whole
	}
	return short
}

// inMemory starts an instance in a cgroup of its own. The services that it uses are outside.
func inMemory(t *testing.T, limit int, settings ...string) (*harness.Instance, *kittest.Cgroup) {
	t.Helper()
	w := harness.NewEnvironment(t, append(kittest.OwnServices(t, migrations.Files), settings...)...)
	w.Sandbox()
	group := kittest.MemoryCgroup(t, limit)
	w.RunIn(group)
	return w.Start(), group
}

func TestMemoryLimitOfTheCgroupIsRead(t *testing.T) {
	kittest.Long(t)
	i, _ := inMemory(t, mb256)
	require.Contains(t, i.Output(), "at most 192 MiB of the 256 MiB of the cgroup")
	i, _ = inMemory(t, mb256, "GOMEMLIMIT=150MiB")
	require.Contains(t, i.Output(), "at most 150 MiB, set by GOMEMLIMIT")
}

func TestMemoryLimitUnderLoad(t *testing.T) {
	kittest.Long(t)
	i, group := inMemory(t, mb256)
	i.Stock(100_000, "MUG-01")
	duration := orNightly(20*time.Second, 3*time.Minute)
	accepted := i.PlaceAt(120, duration, "MUG-01")
	t.Logf("%d orders in %s, at most %d MB used", accepted, duration, group.Peak(t)>>20)
	require.Zero(t, group.Kills(t), "killed by the kernel")
	require.Positive(t, accepted)
	i.Consistent()
}

// A million messages wait to be relayed, and then to be consumed.
func TestMemoryLimitWithABacklog(t *testing.T) {
	kittest.Long(t)
	i, group := inMemory(t, mb256)
	db := kittest.OpenDB(t, i.DSN())
	event := cqrs.Event{Body: payment.Captured{PaymentID: "backlog", OrderID: "backlog", Amount: money.Money{Amount: 100, Currency: "EUR"}}, Category: payment.Category, Key: "backlog"}
	event.Meta = cqrs.Meta{ID: "backlog", Subject: "payments/backlog", Time: time.Now(), Version: 1,
		SagaID: "backlog", SagaStep: "capture payment", Branch: cqrs.BranchAction} // an event that answers no step is passed over
	msg, err := messaging.NewMarshaler(payment.Types, "/"+i.Environment().Prefix).Marshal(event)
	require.NoError(t, err)
	headers, err := json.Marshal(msg.Metadata)
	require.NoError(t, err)
	n := orNightly(20_000, 1_000_000)
	_, err = db.ExecContext(t.Context(), `INSERT INTO outbox (message_id, topic, key, shard, payload, headers)
		SELECT 'backlog-' || i, $1, 'key-' || i, outbox_shard($1, 'key-' || i), $2, replace($3, '"backlog"', '"backlog-' || i || '"')::json FROM generate_series(1, $4) i`,
		i.Topic("events.payments"), []byte(msg.Payload), string(headers), n)
	require.NoError(t, err)
	i.Place("pm_ok", "MUG-01") // wakes the relay
	consumed := func() (done int, err error) {
		err = db.QueryRowContext(t.Context(), `SELECT count(*) FROM inbox WHERE message_id LIKE 'backlog-%'`).Scan(&done)
		return done, err
	}
	before := -1
	for done := 0; done < n; {
		require.Greater(t, done, before, "the backlog does not shrink")
		before = done
		kittest.Eventually(t, func() error {
			if done, err = consumed(); err == nil && done <= before && done < n {
				return fmt.Errorf("%d of %d consumed", done, n)
			}
			return err
		})
		require.Zero(t, group.Kills(t), "killed by the kernel")
		time.Sleep(time.Second) // counting a million rows takes a while
	}
	t.Logf("a backlog of %d, at most %d MB used", n, group.Peak(t)>>20)
}

func TestMemoryLimitOfARebuild(t *testing.T) {
	kittest.Long(t)
	w := harness.NewEnvironment(t, kittest.OwnServices(t, migrations.Files)...)
	i := w.Start()
	db := kittest.OpenDB(t, i.DSN())
	i.Stock(10, "MUG-01")
	i.Decided(i.Place("pm_ok", "MUG-01"))
	i.ExpectFaults() // what is copied
	n := orNightly(50_000, 1_000_000)
	_, err := db.ExecContext(t.Context(), `INSERT INTO events (stream, version, position, type, schema, payload, meta, at)
		SELECT 'orders/copy-' || i, version, nextval('events_position'), type, schema, payload, meta, at
		FROM events, generate_series(1, $1) i WHERE stream LIKE 'orders/%' AND version = 1`, n)
	require.NoError(t, err)
	group := kittest.MemoryCgroup(t, mb256)
	w.RunIn(group)
	out, err := w.Command("projections", "rebuild", "orders").CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("%s at most %d MB used", out, group.Peak(t)>>20)
	require.Zero(t, group.Kills(t), "killed by the kernel")
}

func TestMemoryLimitWithOpenStreams(t *testing.T) {
	kittest.Long(t)
	i, group := inMemory(t, mb256)
	i.Stock(10, "MUG-01")
	harness.NewClient(t, i.Environment().SandboxURL()).SetFaults("carrier", `{"down":true}`) // the order stays pending, and its streams stay open
	id := i.Place("pm_ok", "MUG-01")
	n := orNightly(200, 1000)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: n}}
	opened := make(chan error, n)
	for range n {
		go func() {
			response, err := client.Get(i.URL + "/v1/orders/" + id + "/stream")
			if err != nil {
				opened <- err
				return
			}
			line, err := bufio.NewReader(response.Body).ReadString('\n')
			if err == nil && !strings.HasPrefix(line, "event: ") {
				err = fmt.Errorf("%d: %s", response.StatusCode, line)
			}
			t.Cleanup(func() { _ = response.Body.Close() })
			opened <- err
		}()
	}
	for range n {
		require.NoError(t, <-opened)
	}
	time.Sleep(orNightly(5*time.Second, time.Minute)) // they are fed meanwhile
	t.Logf("%d streams, at most %d MB used", n, group.Peak(t)>>20)
	require.Zero(t, group.Kills(t), "killed by the kernel")
	i.Place("pm_ok", "MUG-01")
}
