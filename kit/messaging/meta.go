package messaging

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// metaOf reads the headers of an incoming message and checks their text, so that the database refuses none of it later. It uses the saga headers and
// the deadline of a command only on this service's own topics and on topics of a service that takes part in its sagas. The error names the header and
// wraps cqrs.ErrPermanent.
func (r *Router) metaOf(consumer string, msg *message.Message) (cqrs.Meta, error) {
	external := r.external[consumer]
	return readMeta(msg, reading{external: external, saga: !external || r.remote[consumer], key: !external || r.sagaGroups[consumer]})
}

// reading says which headers of a message are used.
type reading struct {
	external bool // the message comes from another service
	saga     bool // use the saga headers and the deadline
	key      bool // check the key, because it becomes the key of other messages; a key that only orders messages may be any bytes
	plain    bool // the message may come from any Watermill program: its id may be the UUID, and its type the header "name" of Watermill's marshalers
}

func readMeta(msg *message.Message, o reading) (cqrs.Meta, error) {
	h := msg.Metadata
	m := cqrs.Meta{ID: h[cqrs.HeaderID], Type: h[cqrs.HeaderType], Subject: h[cqrs.HeaderSubject], Correlation: h[cqrs.HeaderCorrelation], Causation: h[cqrs.HeaderCausation]}
	checked := []string{cqrs.HeaderID, cqrs.HeaderType, cqrs.HeaderSubject, cqrs.HeaderCorrelation, cqrs.HeaderCausation, cqrs.HeaderTrace}
	if o.plain {
		m.ID, m.Type = cmp.Or(m.ID, msg.UUID), cmp.Or(m.Type, h["name"])
	}
	if o.external {
		m.Source = h[cqrs.HeaderSource]
		checked = append(checked, cqrs.HeaderSource)
	}
	if o.saga {
		m.SagaID, m.SagaStep, m.Branch = h[cqrs.HeaderSagaID], h[cqrs.HeaderSagaStep], cqrs.Branch(h[cqrs.HeaderBranch])
		checked = append(checked, cqrs.HeaderSagaID, cqrs.HeaderSagaStep)
	}
	if o.key {
		checked = append(checked, cqrs.HeaderKey)
	}
	for _, name := range checked {
		if err := cqrs.CheckText("header "+name, h[name], cqrs.MaxKey); err != nil {
			return m, err
		}
	}
	if trace := h[cqrs.HeaderTrace]; trace != "" {
		m.Trace = map[string]string{cqrs.HeaderTrace: trace}
	}
	for _, name := range []string{cqrs.HeaderID, cqrs.HeaderType} {
		if h[name] == "" && !o.plain {
			return m, fmt.Errorf("no header %s: %w", name, cqrs.ErrPermanent)
		}
	}
	switch m.Branch {
	case "", cqrs.BranchAction, cqrs.BranchCompensation:
	default:
		return m, fmt.Errorf("header %s: %q is neither do nor undo: %w", cqrs.HeaderBranch, m.Branch, cqrs.ErrPermanent)
	}
	if m.Branch != "" && (m.SagaID == "" || m.SagaStep == "") {
		return m, fmt.Errorf("header %s needs %s and %s beside it: %w", cqrs.HeaderBranch, cqrs.HeaderSagaID, cqrs.HeaderSagaStep, cqrs.ErrPermanent)
	}
	var wrong [4]error
	m.Time, wrong[0] = timeIn(h, cqrs.HeaderTime)
	if o.saga {
		m.ExpiresAt, wrong[1] = timeIn(h, cqrs.HeaderExpires)
	}
	m.Version, wrong[2] = numberIn(h, cqrs.HeaderSequence)
	m.Schema, wrong[3] = numberIn(h, cqrs.HeaderSchema)
	return m, cmp.Or(wrong[:]...)
}

func timeIn(h message.Metadata, name string) (time.Time, error) {
	if h[name] == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, h[name])
	if err != nil {
		return at, fmt.Errorf("header %s: %q is not a time of RFC 3339: %w", name, h[name], cqrs.ErrPermanent)
	}
	return at.UTC(), nil
}

func numberIn(h message.Metadata, name string) (int, error) {
	if h[name] == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(h[name])
	if err != nil || n < 0 {
		return 0, fmt.Errorf("header %s: %q is not a number: %w", name, h[name], cqrs.ErrPermanent)
	}
	return n, nil
}
