package aggregatetest_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

type packed struct{ Items []string }

// box keeps the slice of an event and changes it.
type box struct {
	aggregate.Root[packed]
	items []string
}

func newBox(history []packed) *box {
	b := &box{}
	b.Replay(b.apply, history)
	return b
}

func (b *box) apply(e packed) { b.items = e.Items }

func (b *box) unpack() error {
	b.items[0] = "gone"
	return nil
}

// The test of an aggregate that changes a stored event fails.
func TestAggregateThatChangesItsHistoryFails(t *testing.T) {
	if os.Getenv("CHANGE_HISTORY") != "" {
		aggregatetest.For(newBox).Given(packed{[]string{"mug"}}).When((*box).unpack).Nothing()(t)
		return
	}
	again := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$") // this test
	again.Env = append(os.Environ(), "CHANGE_HISTORY=1")
	out, err := again.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), `changes events of its history: they were [{"Items":["mug"]}], and are [{"Items":["gone"]}]`)
}
