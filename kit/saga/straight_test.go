package saga_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// stored is an event of a saga in the form in which the event store holds it.
type stored struct {
	Type    string          `json:"type"`
	Schema  int             `json:"schema"`
	Time    time.Time       `json:"time"`
	Payload json.RawMessage `json:"payload"`
}

// straightRun feeds a saga random inputs, derived from a seed, and returns its history and a text of all its reactions.
func straightRun(t *testing.T, s *saga.Saga, seed uint64) (history []stored, said string) {
	t.Helper()
	chance := rand.New(rand.NewPCG(seed, 1))
	state, now := saga.State{ID: saga.ID("test", fmt.Sprint(seed))}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	open := chance.IntN(4) == 0
	var sent []saga.Command
	var timers []saga.Timer
	var log strings.Builder
	feed := func(in saga.Input) {
		now = now.Add(time.Duration(chance.IntN(400)) * time.Millisecond)
		reaction, err := s.React(state, in, saga.Env{Now: now, Open: func(c cqrs.Keyed) bool { return open && strings.HasPrefix(c.Key(), "a ") }})
		fmt.Fprintf(&log, "%T %v\n", in, err)
		if err != nil {
			return
		}
		for _, f := range reaction.Events {
			kind, payload, err := saga.HistoryTypes.Encode(f)
			require.NoError(t, err)
			payload = bytes.ReplaceAll(payload, []byte("cqrs.NothingToCompensateAnswer"), []byte("cqrs.NothingToUndo")) // the Go type's former name
			history = append(history, stored{kind.Name, kind.Schema, now, payload})
			fmt.Fprintf(&log, "%s %d %s\n", kind.Name, kind.Schema, payload)
		}
		for _, c := range reaction.Commands {
			fmt.Fprintf(&log, "%s %s %s %+v %s\n", c.ID, c.Step, c.Branch, c.Body, c.ExpiresAt)
		}
		fmt.Fprintf(&log, "%+v %v %s\n", reaction.Timers, reaction.CancelledTimers, reaction.State.Status)
		state = reaction.State
		sent, timers = append(sent, reaction.Commands...), append(timers, reaction.Timers...)
	}
	feed(saga.Start{Event: begun{"1"}, Subject: "1"})
	right := map[string]any{
		"do a/do": did{}, "do a/undo": undone{}, "do a2/do": did{}, "do a2/undo": undone{}, "do b/do": didB{}, "do c/do": didC{}, "give up/do": ended{},
	}
	other := []any{refused{"no"}, refused{"full"}, saga.Refused{Reason: "no"}, saga.Failed{Reason: "no"}, saga.NothingToCompensate{}, saga.Processed{}, did{}}
	for range 2 + chance.IntN(25) {
		switch n := chance.IntN(20); {
		case n < 12:
			c := sent[len(sent)-1]
			if chance.IntN(6) == 0 {
				c = sent[chance.IntN(len(sent))]
			}
			event := right[c.Step+"/"+string(c.Branch)]
			if chance.IntN(4) == 0 {
				event = other[chance.IntN(len(other))]
			}
			if _, is := event.(saga.Refused); is && c.Step == "do b" && state.Step("do b").Attempts > 1 {
				continue // the version before was wrong here: TestRefusalOfAnEarlierAttemptAtThePivot
			}
			feed(saga.Answer{Event: event, Step: c.Step, Branch: c.Branch, CommandID: c.ID})
		case n < 16:
			timer := timers[len(timers)-1]
			if chance.IntN(6) == 0 {
				timer = timers[chance.IntN(len(timers))]
			}
			if timer.DueAt.After(now) {
				now = timer.DueAt
			}
			feed(timer.Timeout)
		case n < 17:
			feed(saga.Cancel{Reason: "by hand"})
		default:
			feed([]saga.Input{saga.Retry{By: "ada"}, saga.Skip{By: "ada", Reason: "r"}, saga.Resolve{By: "ada", Reason: "r"}}[n-17])
		}
	}
	return history, log.String()
}

// straight returns the definitions without parallel steps whose histories are in testdata.
func straight() []*saga.Saga { return []*saga.Saga{saga.New(definition()), saga.New(withFallback())} }

const straightRuns = 2000

// A saga without parallel steps records, sends and sets the same as before definitions had stages: the files in testdata were
// written by that version. SAGA_GOLDEN=write writes them anew.
func TestStraightHistoriesAreByteCompatible(t *testing.T) {
	var sums, histories bytes.Buffer
	for d, s := range straight() {
		for seed := range uint64(straightRuns) {
			history, said := straightRun(t, s, seed)
			fmt.Fprintf(&sums, "%x\n", sha256.Sum256([]byte(said)))
			if seed < 40 {
				line, err := json.Marshal(history)
				require.NoError(t, err)
				fmt.Fprintf(&histories, "%d %s\n", d, line)
			}
		}
	}
	if os.Getenv("SAGA_GOLDEN") == "write" {
		sum := sha256.Sum256(sums.Bytes())
		require.NoError(t, os.WriteFile("testdata/straight.sum", fmt.Appendf(nil, "%x\n", sum), 0o600))
		require.NoError(t, os.WriteFile("testdata/straight.histories", histories.Bytes(), 0o600))
	}
	want, err := os.ReadFile("testdata/straight.histories")
	require.NoError(t, err)
	require.Equal(t, string(want), histories.String())
	sum, err := os.ReadFile("testdata/straight.sum")
	require.NoError(t, err)
	require.Equal(t, string(sum), fmt.Sprintf("%x\n", sha256.Sum256(sums.Bytes())), "%d runs of each definition", straightRuns)
}

// An instance that began before definitions had stages continues from every status.
func TestStoredStraightHistoriesGoOn(t *testing.T) {
	file, err := os.ReadFile("testdata/straight.histories")
	require.NoError(t, err)
	right := map[string]any{
		"do a/do": did{}, "do a/undo": undone{}, "do a2/do": did{}, "do a2/undo": undone{}, "do b/do": didB{}, "do c/do": didC{}, "give up/do": ended{},
	}
	for line := range strings.Lines(string(file)) {
		which, text, _ := strings.Cut(line, " ")
		s := straight()[int(which[0]-'0')]
		var all []stored
		require.NoError(t, json.Unmarshal([]byte(text), &all))
		var history []cqrs.Event
		for _, e := range all {
			body, err := saga.HistoryTypes.Decode(e.Type, e.Schema, e.Payload)
			require.NoError(t, err)
			history = append(history, cqrs.Event{Body: body, Meta: cqrs.Meta{Time: e.Time}})
		}
		state := saga.Rebuild("s", history)
		for n := 0; !state.Status.Ended(); n++ {
			require.Less(t, n, 20, "%+v", state)
			for _, st := range state.Steps {
				branch := map[saga.StepStatus]cqrs.Branch{saga.StepStatusInProgress: cqrs.BranchAction, saga.StepStatusCompensating: cqrs.BranchCompensation}[st.Status]
				if branch == "" {
					continue
				}
				reaction, err := s.React(state, saga.Answer{
					Event: right[st.Name+"/"+string(branch)], Step: st.Name, Branch: branch, CommandID: fmt.Sprint("last ", n),
				}, saga.Env{Now: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)})
				require.NoError(t, err)
				state = reaction.State
				break
			}
		}
	}
}

func BenchmarkStraight(b *testing.B) {
	s := saga.New(definition())
	env := saga.Env{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	b.ReportAllocs()
	for b.Loop() {
		state := saga.State{ID: "s"}
		react := func(in saga.Input) saga.Command {
			reaction, err := s.React(state, in, env)
			if err != nil {
				b.Fatal(err)
			}
			state = reaction.State
			if len(reaction.Commands) == 0 {
				return saga.Command{}
			}
			return reaction.Commands[0]
		}
		c := react(saga.Start{Event: begun{"1"}, Subject: "1"})
		for _, event := range []any{did{}, didB{}, didC{}} {
			c = react(saga.Answer{Event: event, Step: c.Step, Branch: c.Branch, CommandID: c.ID})
		}
		if state.Status != saga.StatusCompleted {
			b.Fatal(state.Status)
		}
	}
}
