package sagatest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Faults tests sagas in a deterministic simulation that injects faults: crashes before and after every commit, conflicts, messages that are delivered
// twice, late, again after a long time or as dead letters, timers that fire twice or before their answer, external services that are unavailable or
// report a failure although they acted, open circuit breakers, cancellations. The first runs inject a single fault each, at every place where it can
// happen; the runs after them inject faults at random. In every run, after the last fault all sagas must end, no saga may still wait for an event, and
// Play.Check must return nil.
//
// A failure prints the choices that led to it, shrunk to as few as possible, and the story of the run. SAGATEST_RUNS sets the number of random
// runs, SAGATEST_SEED the seed of the first one.
type Faults struct {
	Sagas []*saga.Saga

	// Play sets up a run: the handlers of the participants, how subjects start, and what must hold at the end.
	Play func(w *Environment) Play

	// Subjects is the number of subjects in each run. 0 means 3.
	Subjects int

	// Runs is the number of random runs. 0 means 1000.
	Runs int

	// Rate is the average share of the random choices that are faults. 0 means 0.05.
	Rate float64

	// shape makes the definitions of a run, and its Play, from choices of the tape, so that a failure shrinks to a small definition.
	// Nil: Sagas and Play are used.
	shape func(t *tape) shape
}

// shape is a random definition.
type shape struct {
	sagas []*saga.Saga // the definition, followed by its children
	text  []string     // description of the definition, for the printed story
	play  func(w *Environment) Play
}

// Play is the setup of one run.
type Play struct {
	Handlers []cqrs.Handler

	// Start starts the nth subject, counted from 0. It is called in a unit of work of its own.
	Start func(ctx context.Context, n int) error

	// Check tests the invariant of the caller, after all sagas have ended.
	Check func() error
}

// maxSteps bounds the steps with faults, for each subject, and maxCalm the steps without faults after them.
const (
	maxSteps = 400
	maxCalm  = 20_000
)

// result is the result of a run.
type result struct {
	err    error
	choice []int
	ways   []int
	faults int
	steps  int
	story  []string
}

func (f Faults) run(t *tape) (r result) {
	all, begin := f.Sagas, f.Play
	var text []string
	if f.shape != nil {
		made := f.shape(t)
		all, begin, text = made.sagas, made.play, made.text
		if err := made.sagas[0].Check(); err != nil {
			r.err, r.choice, r.ways, r.story = err, t.made, t.ways, text
			return r
		}
	}
	w := newWorld(t, all)
	w.loses, w.retries = f.shape != nil, f.shape != nil
	w.story = text
	defer func() {
		if value := recover(); value != nil {
			r.err = fmt.Errorf("panic: %v", value)
		}
		r.choice, r.ways, r.faults, r.story = t.made, t.ways, w.faults, w.story
	}()
	play := begin(w)
	w.add(play.Handlers)
	for n := range f.Subjects {
		w.quiet = true // no faults: every run has all its subjects
		err := w.Within(context.Background(), func(ctx context.Context) error { return play.Start(ctx, n) })
		w.quiet = false
		if err != nil {
			r.err = fmt.Errorf("start %d: %w", n, err)
			return r
		}
		for range t.pick(8) {
			w.step()
		}
	}
	for r.steps < maxSteps*f.Subjects && w.step() {
		r.steps++
	}
	w.quiet = true
	w.tell("from here on nothing goes wrong")
	for calm := 0; w.step(); calm++ {
		if calm == maxCalm {
			r.err = fmt.Errorf("no rest after %d steps", maxCalm)
			return r
		}
		if w.retries && calm%500 == 499 {
			w.retry() // a child that was refused after its parent's pivot needs an operator
		}
	}
	for stream, events := range w.streams {
		if id, ok := strings.CutPrefix(stream, saga.Category+"/"); ok {
			if s := saga.Rebuild(id, events); !s.Status.Ended() {
				r.err = fmt.Errorf("saga %s of %s is %s: %+v", id, s.Subject, s.Status, s.Steps)
				return r
			}
		}
	}
	if len(w.waits.waiting) > 0 {
		r.err = fmt.Errorf("still waiting: %+v", w.waits.waiting)
		return r
	}
	r.err = play.Check()
	return r
}

// Replay runs the simulation with these choices; when they are used up, no more faults happen. It returns the error of the run. It is for fuzzing:
// every list of integers is a valid run.
func (f Faults) Replay(choices []int) error {
	if f.Subjects == 0 {
		f.Subjects = defaultSubjects
	}
	return f.run(&tape{play: choices}).err
}

const defaultSubjects = 3

// Run runs the single-fault runs and then the random runs, on all processors, and fails t at the first failure. See Faults.
func (f Faults) Run(t *testing.T) {
	t.Helper()
	if f.Subjects == 0 {
		f.Subjects = defaultSubjects
	}
	if f.Runs == 0 {
		f.Runs = 1000
	}
	if f.Rate == 0 {
		f.Rate = 0.05
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SAGATEST_SEED"); text != "" {
		given, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SAGATEST_SEED: %v", err)
		}
		seed = given
	}
	if text := os.Getenv("SAGATEST_RUNS"); text != "" {
		given, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("SAGATEST_RUNS: %v", err)
		}
		f.Runs = given
	}
	began := time.Now()
	alone := f.alone(t)
	var next, faults, steps atomic.Int64
	var workers sync.WaitGroup
	var fail sync.Once
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(f.Runs) && !t.Failed(); n = next.Add(1) {
				chance := rand.New(rand.NewPCG(seed, uint64(n))) //nolint:gosec // repeatable on purpose
				r := f.run(&tape{chance: chance, rate: f.Rate * chance.Float64() * 2})
				faults.Add(int64(r.faults))
				steps.Add(int64(r.steps))
				if r.err != nil {
					fail.Do(func() { f.report(t, r, fmt.Sprintf("SAGATEST_SEED=%d, run %d", seed, n)) })
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d sagas in %d worlds, %d faults in %d steps, and %d single faults each alone, in %s; SAGATEST_SEED=%d",
		f.Runs*f.Subjects, f.Runs, faults.Load(), steps.Load(), alone, time.Since(began).Round(time.Millisecond), seed)
}

// alone runs each single fault that can happen in a run without faults, one fault for each run, and returns the number of runs.
func (f Faults) alone(t *testing.T) (n int) {
	t.Helper()
	f.Subjects = 1
	ordinary := f.run(&tape{})
	if ordinary.err != nil {
		f.report(t, ordinary, "the ordinary course")
		return 0
	}
	for at, ways := range ordinary.ways {
		for way := 1; way < ways; way++ {
			choices := make([]int, at+1)
			choices[at] = way
			n++
			if r := f.run(&tape{play: choices}); r.err != nil {
				f.report(t, r, fmt.Sprintf("choice %d: %d", at, way))
				return n
			}
		}
	}
	return n
}

// report shrinks a failure and prints it.
func (f Faults) report(t *testing.T, r result, which string) {
	t.Helper()
	small := shrink(r.choice, func(choices []int) bool { return f.run(&tape{play: choices}).err != nil })
	again := f.run(&tape{play: small, tell: true})
	t.Errorf("%s: %v\nas few choices as do it: %v\n%v\n%s", which, r.err, small, again.err, strings.Join(again.short(), "\n"))
}

// maxStory is the greatest number of lines of a printed story.
const maxStory = 100

// short returns the story, without its middle if it is long.
func (r result) short() []string {
	const head = 30
	if len(r.story) <= maxStory {
		return r.story
	}
	left := len(r.story) - maxStory + 1
	return slices.Concat(r.story[:head], []string{fmt.Sprintf("… %d lines are left out", left)}, r.story[head+left:])
}
