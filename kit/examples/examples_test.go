// Package examples runs the example programs beside it.
package examples

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
)

func TestMain(m *testing.M) { kittest.Main(m) }

func TestExamplePrograms(t *testing.T) {
	for program, want := range map[string]string{
		"outbox": `order-2 failed: sold out
received: order-1 placed
received: order-3 placed
`,
		"eventstore": `deposit 500 error: <nil>
deposit 250 error: <nil>
deposit -1 error: the amount must be positive
balance 750 version 2
append after version 1: conflict: true
published main.MoneyDeposited {"cents":500} position 1
published main.MoneyDeposited {"cents":250} position 2
`,
		"saga": `reserve a seat to Rome
release seat 12A
cancel the trip: the card has expired
saga compensated: the card has expired
`,
		"keyordered": `handled 100 messages of 20 keys, each key in order; many keys at once: true
`,
	} {
		t.Run(program, func(t *testing.T) {
			_, dsn := kittest.Database(t)
			command := exec.CommandContext(t.Context(), "go", "run", "./"+program)
			command.Env = append(os.Environ(), "POSTGRES_DSN="+dsn)
			if program == "keyordered" {
				command.Env = append(command.Env, "KAFKA_BROKERS="+strings.Join(kittest.Kafka(t), ","))
			}
			command.Stderr = t.Output()
			out, err := command.Output()
			require.NoError(t, err)
			require.Equal(t, want, string(out))
		})
	}
}
