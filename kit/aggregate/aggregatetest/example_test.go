package aggregatetest_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

type lit struct{}

type lamp struct {
	aggregate.Root[lit]
	on bool
}

var errOn = aggregate.Refuse("it is on already")

func newLamp(history []lit) *lamp {
	l := &lamp{}
	l.Replay(l.apply, history)
	return l
}

func (l *lamp) apply(lit) { l.on = true }

func (l *lamp) light() error {
	if l.on {
		return errOn
	}
	l.Record(l.apply, lit{})
	return nil
}

// Given some stored events, when a method is called, then it records these events or returns a refusal. Each result is a test: t.Run("lit",
// aLamp.Given()…).
func ExampleFor() {
	t := new(testing.T)
	aLamp := aggregatetest.For(newLamp)
	aLamp.Given().When((*lamp).light).Then(lit{})(t)
	aLamp.Given(lit{}).When((*lamp).light).Refused(errOn)(t)
	fmt.Println("failed:", t.Failed())
	// Output: failed: false
}
