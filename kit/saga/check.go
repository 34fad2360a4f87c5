package saga

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Check returns all the faults of the definition, joined into one error, or nil. The service does not start if a definition has a fault.
func (d Definition[D]) Check() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("saga %s: "+format, append([]any{d.Name}, args...)...))
	}
	if d.Name == "" || d.Version < 1 {
		fault("needs a name and a version from 1")
	}
	d.checkStart(fault)
	if len(d.Steps) == 0 {
		fault("has no steps")
	}
	if d.OnCompensated.Name == "" || d.OnCompensated.Action == nil || d.OnCompensated.Completed.event == nil || d.OnCompensated.Timeout <= 0 {
		fault("needs OnCompensated with a name, a command, a completing event and a time")
	}
	d.checkChildren(fault)
	d.checkTypeNames(fault)
	c := checker[D]{fault: fault, names: map[string]bool{d.OnCompensated.Name: true}, signals: map[string]bool{}, starts: map[reflect.Type]bool{}}
	for _, e := range d.startEvents() {
		c.starts[e.event] = true
		if d.StartAll != nil && e.event != nil {
			c.names[awaitName(e.event)] = true
		}
	}
	for i, s := range d.Steps {
		c.awaited = map[reflect.Type]string{}
		if s.Parallel == nil {
			c.step(i, s, false)
			continue
		}
		c.stage(i, s)
	}
	return errors.Join(faults...)
}

// checkStart checks the starting events of the saga.
func (d Definition[D]) checkStart(fault func(format string, args ...any)) {
	seen := map[reflect.Type]bool{}
	for _, e := range d.startEvents() {
		switch {
		case e.event == nil:
			fault("has no event that starts it")
		case seen[e.event]:
			fault("is started by %s twice", e.event)
		}
		seen[e.event] = true
	}
	switch all := d.StartAll; {
	case all == nil:
	case d.Start.event != nil || len(d.StartAny) > 0:
		fault("has StartAll, which stands instead of Start and StartAny")
	case len(all.Events) < 2 || all.Timeout <= 0:
		fault("has StartAll: it needs two events or more, and a time in which they come")
	case slices.ContainsFunc(all.Events, func(e Expected[D]) bool { return e.byParent }):
		fault("has StartAll: a parent starts a saga with one event")
	}
}

// checkTypeNames finds events of two packages that have the same type name, because events and waits are stored under that name.
func (d Definition[D]) checkTypeNames(fault func(format string, args ...any)) {
	all := d.startEvents()
	for _, st := range d.allSteps() {
		if st.Await != nil {
			all = append(all, st.Await.Received)
		}
	}
	seen := map[string]reflect.Type{}
	for _, e := range all {
		if e.event == nil {
			continue
		}
		if other := seen[e.event.String()]; other != nil && other != e.event {
			fault("waits for %s of %s and of %s: give one of them another name", e.event, other.PkgPath(), e.event.PkgPath())
		}
		seen[e.event.String()] = e.event
	}
}

// checkChildren finds a saga that is its own child, directly or by way of its children.
func (d Definition[D]) checkChildren(fault func(format string, args ...any)) {
	var follow func(s *Saga, path []string)
	follow = func(s *Saga, path []string) {
		path = append(slices.Clip(path), s.name)
		if s.name == d.Name {
			fault("is its own child: %s", strings.Join(path, " starts "))
			return
		}
		for _, c := range s.children {
			follow(c, path)
		}
	}
	for _, st := range d.allSteps() {
		if st.Child != nil && st.Child.definition != nil {
			follow(st.Child.definition, []string{d.Name})
		}
	}
}

// allSteps returns the steps of all stages, without fallbacks.
func (d Definition[D]) allSteps() (all []Step[D]) {
	for _, st := range d.Steps {
		if st.Parallel == nil {
			all = append(all, st)
		}
		all = append(all, st.Parallel...)
	}
	return all
}

// checker finds the faults of steps, in the order in which the steps run.
type checker[D any] struct {
	fault   func(format string, args ...any)
	names   map[string]bool
	signals map[string]bool
	starts  map[reflect.Type]bool
	awaited map[reflect.Type]string // from an event type to the step that waits for it in this stage
	pivot   string                  // the name of the pivot; empty: it has not been found yet
}

// stage checks a stage of parallel steps.
func (c *checker[D]) stage(i int, s Step[D]) {
	names := make([]string, len(s.Parallel))
	for n, branch := range s.Parallel {
		names[n] = branch.Name
	}
	parallel := s.Parallel
	s.Parallel = nil
	if !reflect.ValueOf(s).IsZero() {
		c.fault("stage %d (%s) has fields beside Parallel: set them in its steps", i+1, strings.Join(names, ", "))
	}
	if len(parallel) < 2 {
		c.fault("stage %d (%s) needs two parallel steps or more", i+1, strings.Join(names, ", "))
	}
	for _, branch := range parallel {
		if branch.Parallel != nil {
			c.fault("stage %d has a stage inside: parallel steps are not nested", i+1)
			continue
		}
		c.step(i, branch, true)
	}
}

// form checks the fields that every step and every fallback with a command needs.
func (c *checker[D]) form(i int, s Step[D]) {
	if s.Name == "" || c.names[s.Name] {
		c.fault("step %d needs a name of its own, has %q", i+1, s.Name)
	}
	c.names[s.Name] = true
	switch {
	case s.Child != nil:
		c.child(s)
	case s.Action == nil || s.Completed.event == nil || s.Timeout <= 0:
		c.fault("step %q needs a command, a completing event and a time", s.Name)
	}
}

// delay checks a step with Delay or DelayUntil.
func (c *checker[D]) delay(i int, s Step[D]) {
	if s.Name == "" || c.names[s.Name] {
		c.fault("step %d needs a name of its own, has %q", i+1, s.Name)
	}
	c.names[s.Name] = true
	if s.Delay != nil && s.DelayUntil != nil {
		c.fault("step %q has Delay and DelayUntil: set one of them", s.Name)
	}
	s.Name, s.Delay, s.DelayUntil, s.SkipIf = "", nil, nil, nil
	if !reflect.ValueOf(s).IsZero() {
		c.fault("step %d is a delay: it only waits, so no other field is set but Name and SkipIf", i+1)
	}
}

// signal checks a step with Signal.
func (c *checker[D]) signal(i int, s Step[D]) {
	g := *s.Signal
	switch {
	case g.Name == "" || strings.Trim(g.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		c.fault("step %q waits for a signal: its name %q is not of lower case letters, digits and dashes", s.Name, g.Name)
	case c.signals[g.Name]:
		c.fault("step %q waits for the signal %q, and so does another step: which one would be meant?", s.Name, g.Name)
	case len(g.Roles) == 0 || slices.Contains(g.Roles, ""):
		c.fault("step %q waits for a signal: it needs the roles that may send it", s.Name)
	case slices.Contains(g.Roles, "customer"):
		c.fault("step %q waits for a signal of customers: the kit does not know whose saga it is, so a route of the service must send it", s.Name)
	case g.Received.event == nil || g.Received.event.Kind() != reflect.Struct || s.Timeout <= 0:
		c.fault("step %q waits for a signal: it needs a payload, which is a struct, and a time", s.Name)
	}
	c.signals[g.Name] = true
	s.Signal = nil
	c.wait(i, s, "a signal", g.Optional)
}

// await checks a step with Await.
func (c *checker[D]) await(i int, s Step[D]) {
	a := *s.Await
	event := a.Received.event
	switch {
	case event == nil || s.Timeout <= 0:
		c.fault("step %q waits for an event: it needs the event, and a time", s.Name)
	case a.EventKey.event != nil && a.EventKey.event != event:
		c.fault("step %q waits for %s, and its EventKey is that of %s", s.Name, event, a.EventKey.event)
	case a.Key == nil:
		c.fault("step %q waits for %s: it needs the key in the data that correlates them", s.Name, event)
	case keyOf(func() string { return a.Key(filled(reflect.TypeFor[D]()).Interface().(D)) }) == "":
		c.fault("step %q waits for %s: no field of the data fills its key", s.Name, event)
	case a.EventKey.key != nil && keyOf(func() string { return a.EventKey.key(filled(event).Interface()) }) == "":
		c.fault("step %q waits for %s: no field of the event fills its key", s.Name, event)
	case c.starts[event]:
		c.fault("step %q waits for %s, which starts the saga", s.Name, event)
	case c.awaited[event] != "":
		c.fault("steps %q and %q wait for %s at once: which one would be meant?", c.awaited[event], s.Name, event)
	}
	if event != nil {
		c.awaited[event] = s.Name
	}
	s.Await = nil
	c.wait(i, s, "an event", a.Optional)
}

// wait checks the fields that a step with Signal and a step with Await have in common. What names the thing that the step waits for.
func (c *checker[D]) wait(i int, s Step[D], what string, optional bool) {
	if s.Name == "" || c.names[s.Name] {
		c.fault("step %d needs a name of its own, has %q", i+1, s.Name)
	}
	c.names[s.Name] = true
	switch {
	case c.pivot != "" && !optional:
		c.fault("step %q waits for %s after the pivot: it must be optional", s.Name, what)
	case optional && s.Fallback != nil:
		c.fault("step %q is optional and has a fallback: its fallback would never be taken", s.Name)
	case s.Reminder != nil && (s.Reminder.Action == nil || s.Reminder.After <= 0 || s.Reminder.After >= s.Timeout):
		c.fault("step %q has a reminder: it needs a command, and a time shorter than that of the step", s.Name)
	}
	f := s.Fallback
	s.Name, s.Timeout, s.SkipIf, s.Fallback, s.Reminder = "", 0, nil, nil, nil
	if !reflect.ValueOf(s).IsZero() {
		c.fault("step %d waits for %s: no other field is set but Name, SkipIf, Timeout, Reminder and Fallback", i+1, what)
	}
	if f == nil {
		return
	}
	c.form(i, f.step())
	switch {
	case f.Compensation == nil || f.Compensated.event == nil:
		c.fault("fallback %q needs a compensation and the event that ends it", f.Name)
	case !f.WhenTimedOut || f.WhenOpen || len(f.WhenRefused) > 0:
		c.fault("fallback %q is that of a step that waits for %s: it is taken when the time is up, and not otherwise", f.Name, what)
	}
}

// until checks a step with Until.
func (c *checker[D]) until(s Step[D]) {
	switch u := s.Until; {
	case u.Holds == nil || u.Every <= 0 || u.Attempts < 1:
		c.fault("step %q is repeated until a condition holds: it needs the condition, a time between and a number of attempts", s.Name)
	case s.Pivot:
		c.fault("step %q is the pivot: it is not repeated until a condition holds", s.Name)
	case s.Compensation != nil:
		c.fault("step %q is repeated until a condition holds: its command has no effect and its step no compensation", s.Name)
	case strings.Contains(s.Name, "#"):
		c.fault("step %q is repeated: its name must not contain #", s.Name)
	}
}

// child checks a step with Child.
func (c *checker[D]) child(s Step[D]) {
	other := s.Child.definition
	switch {
	case other == nil:
		c.fault("step %q starts another saga: use ChildOf", s.Name)
		return
	case s.Timeout <= 0:
		c.fault("step %q starts saga %s: it needs a time", s.Name, other.name)
	case s.Action != nil || s.Completed.event != nil || s.Compensation != nil || s.Compensated.event != nil || len(s.Refused) > 0 || s.Until != nil:
		c.fault("step %q starts saga %s: it has no commands and no events of its own", s.Name, other.name)
	case other.startOf(s.Child.event) == nil:
		c.fault("step %q starts saga %s with %s, which does not start it", s.Name, other.name, s.Child.event)
	case other.starts[0].step != "":
		c.fault("step %q starts saga %s, which needs several events to start", s.Name, other.name)
	case c.pivot == "" && !s.Pivot && other.hasPivot():
		c.fault("step %q comes before the pivot and starts saga %s, which has a pivot: after that it could not be compensated", s.Name, other.name)
	}
	if err := other.check; err != nil {
		c.fault("step %q starts a saga with faults: %w", s.Name, err)
	}
}

func (s *Saga) hasPivot() bool {
	return slices.ContainsFunc(s.steps, func(st step) bool { return st.pivot })
}

// forEach checks a step with ForEach.
func (c *checker[D]) forEach(s Step[D]) {
	switch e := s.ForEach; {
	case e.Items == nil || e.Item == nil:
		c.fault("step %q is taken for each item: it needs the number of items, and the function that chooses one", s.Name)
	case e.AtOnce < 1 || e.Max < 1:
		c.fault("step %q is taken for each item: it needs the most that are in flight at once, and the most that there may be", s.Name)
	case s.Pivot:
		c.fault("step %q is the pivot: it is not taken for each item", s.Name)
	case strings.Contains(s.Name, "#") || s.Fallback != nil && strings.Contains(s.Fallback.Name, "#"):
		c.fault("step %q is taken for each item: its name and that of its fallback must not contain #", s.Name)
	}
}

func (c *checker[D]) step(i int, s Step[D], parallel bool) {
	switch {
	case s.Delay != nil, s.DelayUntil != nil:
		c.delay(i, s)
		return
	case s.Signal != nil:
		c.signal(i, s)
		return
	case s.Await != nil:
		c.await(i, s)
		return
	case s.Reminder != nil:
		c.fault("step %q has a reminder, and waits neither for a signal nor for an event", s.Name)
	}
	c.form(i, s)
	if s.ForEach != nil {
		c.forEach(s)
	}
	after := c.pivot != ""
	if s.Pivot {
		if after {
			c.fault("steps %q and %q are both the pivot", c.pivot, s.Name)
		}
		if parallel {
			c.fault("step %q is the pivot: it stands alone, not parallel to other steps", s.Name)
		}
		c.pivot = s.Name
	}
	if s.Until != nil {
		c.until(s)
	}
	switch {
	case after && !s.Pivot && (!s.Retriable || s.Compensation != nil):
		c.fault("step %q comes after the pivot: it must be retriable and have no compensation", s.Name)
	case !after && s.Retriable:
		c.fault("step %q is retriable, but stands before the pivot", s.Name)
	case !after && !s.Pivot && s.Until == nil && s.Child == nil && (s.Compensation == nil || s.Compensated.event == nil):
		c.fault("step %q comes before the pivot: it needs a compensation and the event that ends it", s.Name)
	}
	if f := s.Fallback; f != nil {
		c.form(i, f.step())
		switch {
		case c.pivot != "":
			c.fault("step %q is the pivot or comes after it: it is asked until it answers and has no fallback", s.Name)
		case f.Compensation == nil || f.Compensated.event == nil:
			c.fault("fallback %q needs a compensation and the event that ends it", f.Name)
		case !f.WhenOpen && !f.WhenTimedOut && len(f.WhenRefused) == 0:
			c.fault("fallback %q would never be taken: say when", f.Name)
		}
	}
}
