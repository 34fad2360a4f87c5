package saga

import (
	"encoding/json"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
)

func eraseStep[D any](st Step[D]) step {
	var repeated *until
	if u := st.Until; u != nil {
		repeated = &until{fromData(u.Holds), u.Every, u.Attempts}
	}
	var waitsFor *signal
	if g := st.Signal; g != nil {
		waitsFor = &signal{g.Name, g.Roles, erase(g.Received)}
	}
	var event *await
	if a := st.Await; a != nil {
		event = &await{erase(a.Received), fromData(a.Key), a.EventKey.key}
	}
	var remindAfter time.Duration
	var reminder func(json.RawMessage, string) (cqrs.Keyed, error)
	if r := st.Reminder; r != nil {
		remindAfter, reminder = r.After, command(r.Action)
	}
	var other *child
	undo := command(st.Compensation)
	if c := st.Child; c != nil {
		other = eraseChild(c)
		if !st.Pivot && !st.Retriable {
			undo = other.noCommand
		}
	}
	var each *forEach
	group := ""
	if e := st.ForEach; e != nil {
		each, group = &forEach{fromData(e.Items), chosen(e.Item), e.AtOnce, e.Max}, st.Name
	}
	return step{
		until: repeated, signal: waitsFor, forEach: each, group: group, await: event, remindAfter: remindAfter, reminder: reminder,
		optional: st.Signal != nil && st.Signal.Optional || st.Await != nil && st.Await.Optional,
		name:     st.Name, completed: erase(st.Completed), undone: erase(st.Compensated), refused: st.Refused,
		do: command(st.Action), undo: undo, child: other, within: st.Timeout, pivot: st.Pivot, retriable: st.Retriable,
		skipIf: fromData(st.SkipIf), delay: delay(st),
	}
}

// delay returns a function of the data's JSON and the current time: when the delay of a step ends. Nil: the step is no delay.
func delay[D any](st Step[D]) func(data json.RawMessage, now time.Time) (time.Time, error) {
	switch {
	case st.Delay != nil:
		d := fromData(st.Delay)
		return func(data json.RawMessage, now time.Time) (time.Time, error) {
			after, err := d(data)
			return now.Add(max(after, 0)), err
		}
	case st.DelayUntil != nil:
		until := fromData(st.DelayUntil)
		return func(data json.RawMessage, now time.Time) (time.Time, error) {
			at, err := until(data)
			if at.Before(now) {
				at = now
			}
			return at.UTC(), err
		}
	default:
		return nil
	}
}

// fromData wraps a function of the data as a function of the data's JSON. Nil stays nil.
func fromData[D, R any](f func(D) R) func(json.RawMessage) (R, error) {
	if f == nil {
		return nil
	}
	return func(data json.RawMessage) (result R, err error) {
		var d D
		if err := json.Unmarshal(data, &d); err != nil {
			return result, err
		}
		return f(d), nil
	}
}

// chosen wraps ForEach.Item as a function of the data's JSON.
func chosen[D any](item func(D, int) D) func(json.RawMessage, int) (json.RawMessage, error) {
	return func(data json.RawMessage, n int) (json.RawMessage, error) {
		var d D
		if err := json.Unmarshal(data, &d); err != nil {
			return nil, err
		}
		return json.Marshal(item(d, n))
	}
}

func erase[D any](o Expected[D]) on {
	return on{o.event, func(data json.RawMessage, event any) (json.RawMessage, error) {
		if o.apply == nil && len(data) > 0 {
			return nil, nil
		}
		var d D
		if len(data) > 0 {
			if err := json.Unmarshal(data, &d); err != nil {
				return nil, err
			}
		}
		if o.apply != nil {
			o.apply(&d, event)
		}
		return json.Marshal(d)
	}}
}

func command[D any](f func(D) cqrs.Keyed) func(json.RawMessage, string) (cqrs.Keyed, error) {
	if f == nil {
		return nil
	}
	return func(data json.RawMessage, _ string) (cqrs.Keyed, error) {
		var d D
		if err := json.Unmarshal(data, &d); err != nil {
			return nil, err
		}
		return f(d), nil
	}
}
