package component

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// inSchema is a DSN whose tables are in a schema.
func inSchema(t *testing.T, dsn, schema string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

// Two services in one database, each in a schema of its own: their locks, leases and notifications do not meet, so both relay all their
// shards, and orders are confirmed in both. BROKER=postgres takes locks too.
func TestTwoServicesInTwoSchemas(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	if !kittest.Real() {
		t.Skip("needs a database that two services share: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	for _, broker := range []string{"kafka", "postgres"} {
		t.Run(broker, func(t *testing.T) {
			w := harness.NewEnvironment(t, "BROKER="+broker)
			if broker == "postgres" {
				w = harness.NewEnvironment(t, "BROKER="+broker, "KAFKA_BROKERS=")
			}
			db := kittest.OpenDB(t, w.DSN())
			var services []*harness.Instance
			for n := range 2 {
				name := fmt.Sprint("service", n)
				_, err := db.Exec(`CREATE SCHEMA ` + name)
				require.NoError(t, err)
				services = append(services, w.StartWith("POSTGRES_DSN="+inSchema(t, w.DSN(), name), "TOPIC_PREFIX="+w.Prefix+name, "DATA_DIR="+t.TempDir()))
			}
			for _, i := range services {
				i.Stock(100, "MUG-01")
			}
			for range 5 {
				for _, i := range services {
					require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
				}
			}
			for _, i := range services {
				kittest.Eventually(t, func() error {
					_, body, err := i.Get("/metrics")
					if err == nil && !strings.Contains(body, "\nmillrace_relay_shards 16\n") {
						err = fmt.Errorf("it does not hold all its shards")
					}
					return err
				})
			}
		})
	}
}

// A search_path that names no schema is a wrong setting.
func TestUnknownSchemaIsRefused(t *testing.T) {
	t.Parallel()
	if !kittest.Real() {
		t.Skip("needs a database: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	w := harness.NewEnvironment(t)
	i := w.Launch("POSTGRES_DSN=" + inSchema(t, w.DSN(), "nowhere"))
	require.NotZero(t, i.Wait())
	require.Contains(t, i.Output(), `POSTGRES_DSN: its search_path "nowhere" names no schema that exists`)
}
