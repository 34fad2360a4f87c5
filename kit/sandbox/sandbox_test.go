package sandbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/sandbox"
)

type hold struct {
	ID     string `json:"id"`
	Amount int64  `json:"amount"`
	Kind   string `json:"kind"`
}

// cards is a stand-in that holds money, captures held money, and releases it.
func cards() *sandbox.Service {
	return sandbox.New("cards", func(h hold) string { return h.ID }, []string{"held", "taken"},
		sandbox.Operation[hold]{
			Name: "hold", Path: "/holds", Reference: "h-", Refusal: "no money", Barred: "released", Status: http.StatusPaymentRequired,
			Decide: func(h hold, _ sandbox.Effects) sandbox.Decision {
				switch h.Kind {
				case "declined":
					return sandbox.Decision{Refused: "declined"}
				case "broken":
					return sandbox.Decision{Status: http.StatusInternalServerError, Refused: "broken"}
				case "slow":
					return sandbox.Decision{Amount: h.Amount, Delay: 20 * time.Millisecond}
				case "never taken":
					return sandbox.Decision{Amount: h.Amount, Never: "take"}
				}
				return sandbox.Decision{Amount: h.Amount}
			},
			Count: func(l sandbox.Ledger, amount int64, _ sandbox.Effects) { l["held"] += amount },
		},
		sandbox.Operation[hold]{
			Name: "take", Path: "/takes", Reference: "t-", Refusal: "not today",
			Decide: func(_ hold, done sandbox.Effects) sandbox.Decision {
				if !done.Has("hold") {
					return sandbox.Decision{Status: http.StatusConflict, Refused: "nothing is held"}
				}
				return sandbox.Decision{Amount: done.Amount("hold")}
			},
			Count: func(l sandbox.Ledger, amount int64, done sandbox.Effects) {
				l["taken"] += amount
				l["held"] -= done.Amount("hold")
			},
		},
		sandbox.Operation[hold]{
			Name: "release", Path: "/releases", Reference: "r-", Undoes: "hold",
			Count: func(l sandbox.Ledger, amount int64, _ sandbox.Effects) { l["held"] -= amount },
		},
	)
}

// test is a sandbox with the stand-in cards.
type test struct {
	*testing.T
	box *sandbox.Sandbox
	dir string
}

func begin(t *testing.T, dir string) test {
	t.Helper()
	box, err := sandbox.Open(dir, cards())
	require.NoError(t, err)
	t.Cleanup(func() { _ = box.Close() })
	return test{t, box, dir}
}

// call returns the status and the reference or the reason.
func (t test) call(path, id, kind string) string {
	t.Helper()
	body := fmt.Sprintf(`{"id":%q,"amount":5,"kind":%q}`, id, kind)
	w := httptest.NewRecorder()
	t.box.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/cards"+path, strings.NewReader(body)))
	var answer struct{ Reference, Reason string }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body)
	return fmt.Sprintf("%d %s%s", w.Code, answer.Reference, answer.Reason)
}

func (t test) ledger() sandbox.Ledger { return t.box.Service("cards").Ledger() }

func TestOperationTakesEffectOnce(t *testing.T) {
	s := begin(t, t.TempDir())
	for range 3 {
		require.Equal(t, "200 h-a", s.call("/holds", "a", ""))
	}
	require.Equal(t, sandbox.Ledger{"held": 5, "taken": 0, "calls": 3, "repeats": 2}, s.ledger())
	for range 2 {
		require.Equal(t, "200 t-a", s.call("/takes", "a", ""))
	}
	require.Equal(t, sandbox.Ledger{"held": 0, "taken": 5, "calls": 5, "repeats": 3}, s.ledger())
}

func TestUndoingTakesEffectOnceAndBars(t *testing.T) {
	s := begin(t, t.TempDir())
	s.call("/holds", "a", "")
	for range 2 {
		require.Equal(t, "200 r-a", s.call("/releases", "a", ""))
	}
	require.Equal(t, "402 released", s.call("/holds", "a", ""), "after it was undone")
	require.Equal(t, "409 nothing is held", s.call("/takes", "a", ""))
	require.Equal(t, "200 r-b", s.call("/releases", "b", ""), "nothing to undo")
	for range 2 {
		require.Equal(t, "402 released", s.call("/holds", "b", ""), "the request that was overtaken")
	}
	require.Zero(t, s.ledger()["held"])
}

func TestRefusalIsFinalForItsID(t *testing.T) {
	s := begin(t, t.TempDir())
	require.Equal(t, "402 declined", s.call("/holds", "a", "declined"))
	require.Equal(t, "402 declined", s.call("/holds", "a", ""))
	require.Equal(t, "200 r-a", s.call("/releases", "a", ""))
	require.Equal(t, "402 declined", s.call("/holds", "a", ""))
	require.Equal(t, "200 h-b", s.call("/holds", "b", ""))
	require.Equal(t, "500 broken", s.call("/holds", "c", "broken"))
	require.Equal(t, "200 h-c", s.call("/holds", "c", ""), "an answer with a status of its own decides nothing")
	require.Equal(t, "200 h-d", s.call("/holds", "d", "never taken"))
	for range 2 {
		require.Equal(t, "422 not today", s.call("/takes", "d", ""))
	}
	began := time.Now()
	for range 2 {
		require.Equal(t, "200 h-e", s.call("/holds", "e", "slow"))
	}
	require.GreaterOrEqual(t, time.Since(began), 40*time.Millisecond, "a repeated request waits too")
}

func TestJournalKeepsEffects(t *testing.T) {
	dir := t.TempDir()
	s := begin(t, dir)
	s.call("/holds", "a", "")
	s.call("/holds", "b", "declined")
	s.call("/holds", "c", "never taken")
	s.call("/releases", "d", "")
	want := s.ledger()
	path := filepath.Join(dir, "cards.jsonl")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(text, `{"op":"hold","id":"to`...), 0o600)) // killed while it wrote

	again := begin(t, dir)
	require.Equal(t, want, again.ledger())
	require.Equal(t, "200 t-a", again.call("/takes", "a", ""))
	require.Equal(t, "402 declined", again.call("/holds", "b", ""))
	require.Equal(t, "422 not today", again.call("/takes", "c", ""))
	require.Equal(t, "402 released", again.call("/holds", "d", ""))
	want = again.ledger()
	require.Equal(t, want, begin(t, dir).ledger(), "what is appended behind the cut line is whole")

	require.NoError(t, os.WriteFile(path, []byte(`{"op":"steal","id":"x"}`), 0o600))
	_, err = sandbox.Open(dir, cards())
	require.ErrorContains(t, err, `sandbox cards: there is no operation "steal"`)
}

func TestFaults(t *testing.T) {
	s := begin(t, t.TempDir())
	set := func(f sandbox.Faults) { s.box.Service("cards").SetFaults(f) }
	set(sandbox.Faults{Down: true})
	require.Equal(t, "503 the sandbox is down", s.call("/holds", "a", ""))
	require.Zero(t, s.ledger()["calls"])
	set(sandbox.Faults{FailureRate: 1})
	before := false
	for n := 0; !before || s.ledger()["calls"] == 0; n++ {
		answer := s.call("/holds", fmt.Sprint("f", n), "")
		require.Contains(t, answer, "500 failed ")
		before = before || strings.Contains(answer, "before")
	}
	set(sandbox.Faults{RefusalRate: 1})
	require.Equal(t, "402 no money", s.call("/holds", "r", ""))
	require.Equal(t, "200 r-r", s.call("/releases", "r", ""), "an undoing is never refused")
	set(sandbox.Faults{Twice: true, Latency: sandbox.Duration(time.Millisecond)})
	held := s.ledger()["held"]
	require.Equal(t, "200 h-t", s.call("/holds", "t", ""))
	require.Equal(t, held+5, s.ledger()["held"])
}

func control(t test, method, path, body string) (status int, document map[string]any) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	t.box.Control().ServeHTTP(w, r)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &document))
	return w.Code, document
}

func TestControl(t *testing.T) {
	s := begin(t, t.TempDir())
	s.call("/holds", "a", "")
	status, document := control(s, http.MethodPut, "/v1/sandbox/cards", `{"latency":"250ms","failure_rate":0.5}`)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, map[string]any{"down": false, "failure_rate": 0.5, "refusal_rate": 0.0, "latency": "250ms", "twice": false}, document["knobs"])
	require.Equal(t, map[string]any{"held": 5.0, "taken": 0.0, "calls": 1.0, "repeats": 0.0}, document["ledger"])
	require.EqualValues(t, 5, document["held"])
	require.Equal(t, "250ms", document["latency"])
	_, document = control(s, http.MethodPut, "/v1/sandbox/cards", `{"down":true}`)
	require.InDelta(t, 0.5, document["failure_rate"], 0, "a setting that is not named stays")
	_, document = control(s, http.MethodGet, "/v1/sandbox/cards", "")
	require.Equal(t, true, document["down"])

	for body, want := range map[string]string{
		`{"failure_rate":1.5}`: "failure_rate", `{"latency":"x"}`: "latency", `{"latency":7}`: "latency", `{"colour":1}`: "colour", `{"down":true,"down":true}`: "down",
	} {
		status, document = control(s, http.MethodPut, "/v1/sandbox/cards", body)
		require.Equal(t, http.StatusBadRequest, status, body)
		require.Contains(t, document["detail"], want)
	}
	status, document = control(s, http.MethodGet, "/v1/sandbox/weather", "")
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, "the sandbox has cards, not /v1/sandbox/weather", document["detail"])
}

func TestUndoingNeedsAnOperationBeforeIt(t *testing.T) {
	require.PanicsWithValue(t, `sandbox cards: release undoes "hold", which no operation before it is`, func() {
		sandbox.New("cards", func(h hold) string { return h.ID }, nil, sandbox.Operation[hold]{Name: "release", Undoes: "hold"})
	})
}
