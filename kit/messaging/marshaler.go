// Package messaging carries commands and events over Watermill: a marshaler for CloudEvents headers, the command and event buses, a
// router for the handlers, sagas and projections of a service, and middleware.
//
// The middleware can be used in any Watermill program. KeyOrder, DeadLetters, Retry and Inbox are message.HandlerMiddleware for a
// message.Router whose handlers are made by Watermill's cqrs.NewCommandHandler and cqrs.NewEventHandler. OnSend, OnPublish,
// CommandsFromBus, EventsFromBus and SagaHandlers run a saga over Watermill's buses and processors; kit/examples/saga shows how.
package messaging

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// Marshaler is Watermill's CommandEventMarshaler for cqrs.Command and cqrs.Event: JSON payloads under CloudEvents headers, and other formats
// where a Codec is set. Incoming payloads of older schema versions are upcasted.
type Marshaler struct {
	types  aggregate.Types
	source string
	codecs map[string]Codec // of messages in other forms, by their names
}

// NewMarshaler makes a marshaler of messages of these types; source is this service, as a URI reference.
func NewMarshaler(types aggregate.Types, source string) Marshaler {
	return Marshaler{types: types, source: source}
}

// Marshal implements cqrs.CommandEventMarshaler.
func (m Marshaler) Marshal(v any) (*message.Message, error) {
	var body any
	var meta cqrs.Meta
	key := ""
	due := time.Time{}
	switch v := v.(type) {
	case cqrs.Command:
		body, meta, due = v.Body, v.Meta, v.DueAt
		keyed, ok := v.Body.(cqrs.Keyed)
		if !ok {
			return nil, fmt.Errorf("command %T has no method Key", v.Body)
		}
		key = keyed.Key()
		if err := cqrs.CheckText("key of "+m.Name(v), key, cqrs.MaxKey); err != nil {
			return nil, err
		}
	case cqrs.Event:
		body, meta, key = v.Body, v.Meta, v.Key
	default:
		return nil, fmt.Errorf("%T is neither an cqrs.Command nor an cqrs.Event", v)
	}
	t, payload, err := m.types.Encode(body)
	if err != nil {
		return nil, err
	}
	msg := message.NewMessage(meta.ID, payload)
	msg.Metadata = make(message.Metadata, maxHeaders)
	for _, h := range [...]header{
		{cqrs.HeaderSpec, "1.0"}, {cqrs.HeaderContent, "application/json"}, {cqrs.HeaderSource, m.source}, {cqrs.HeaderID, meta.ID},
		{cqrs.HeaderType, t.Name}, {cqrs.HeaderSchema, strconv.Itoa(t.Schema)}, {cqrs.HeaderTime, meta.Time.UTC().Format(time.RFC3339Nano)},
		{cqrs.HeaderKey, key},
	} {
		msg.Metadata[h.name] = h.value
	}
	for _, h := range [...]header{
		{cqrs.HeaderSubject, meta.Subject}, {cqrs.HeaderCorrelation, meta.Correlation}, {cqrs.HeaderCausation, meta.Causation},
		{cqrs.HeaderSagaID, meta.SagaID}, {cqrs.HeaderSagaStep, meta.SagaStep}, {cqrs.HeaderBranch, string(meta.Branch)},
		{cqrs.HeaderTrace, meta.Trace[cqrs.HeaderTrace]}, {cqrs.HeaderExpires, stamp(meta.ExpiresAt)}, {cqrs.HeaderDue, stamp(due)},
		{cqrs.HeaderSequence, sequence(meta.Version)},
	} {
		if h.value != "" {
			msg.Metadata[h.name] = h.value
		}
	}
	return msg, m.encode(msg, body)
}

// maxHeaders is how many headers a message of ours has at most.
const maxHeaders = 18

type header struct{ name, value string }

func sequence(version int) string {
	if version == 0 {
		return ""
	}
	return strconv.Itoa(version)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Unmarshal implements cqrs.CommandEventMarshaler; v is a pointer to a registered type. The error is cqrs.ErrPermanent.
func (m Marshaler) Unmarshal(msg *message.Message, v any) error {
	body, err := m.decode(msg)
	if err != nil {
		return err
	}
	target := reflect.ValueOf(v).Elem()
	if value := reflect.ValueOf(body); value.Type() == target.Type() {
		target.Set(value)
		return nil
	}
	return fmt.Errorf("a %T is not a %s: %w", body, target.Type(), cqrs.ErrPermanent)
}

func (m Marshaler) decode(msg *message.Message) (any, error) {
	if c, ok := m.other(msg); ok {
		body, err := c.Decode(msg.Payload)
		if err != nil {
			return nil, fmt.Errorf("%w: decode %s from %s: %w", cqrs.ErrPermanent, c.Name, c.ContentType, err)
		}
		return body, nil
	}
	if bytes.Equal(bytes.TrimSpace(msg.Payload), []byte("null")) {
		return nil, fmt.Errorf("payload of %s: is null: %w", msg.Metadata.Get(cqrs.HeaderType), cqrs.ErrPermanent)
	}
	schema := 1
	if text := msg.Metadata.Get(cqrs.HeaderSchema); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("header %s: %q is not a number: %w", cqrs.HeaderSchema, text, cqrs.ErrPermanent)
		}
		schema = n
	}
	body, err := m.types.Decode(msg.Metadata.Get(cqrs.HeaderType), schema, msg.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", cqrs.ErrPermanent, err)
	}
	return body, nil
}

// Name implements cqrs.CommandEventMarshaler.
func (m Marshaler) Name(v any) string {
	switch envelope := v.(type) {
	case cqrs.Command:
		v = envelope.Body
	case cqrs.Event:
		v = envelope.Body
	}
	t, _ := m.types.Of(v)
	return t.Name
}

// NameFromMessage implements cqrs.CommandEventMarshaler.
func (m Marshaler) NameFromMessage(msg *message.Message) string {
	return msg.Metadata.Get(cqrs.HeaderType)
}

// known returns an error, cqrs.ErrPermanent, for a message of an unregistered type.
func (m Marshaler) known(msg *message.Message) error {
	name := m.NameFromMessage(msg)
	if name == "" {
		return fmt.Errorf("no header %s: %w", cqrs.HeaderType, cqrs.ErrPermanent)
	}
	if _, ok := m.types.Named(name); !ok {
		return fmt.Errorf("header %s: %q: %w: %w", cqrs.HeaderType, name, aggregate.ErrUnknownType, cqrs.ErrPermanent)
	}
	return nil
}

// metaOf reads the headers of an incoming message and checks their text, so that no later part meets bytes that the database refuses. Saga
// headers and a command's deadline are used on this service's own topics, and on those of a service that takes part in its sagas; on other
// topics they are ignored. The error names the wrong header, and is cqrs.ErrPermanent.
func (r *Router) metaOf(consumer string, msg *message.Message) (cqrs.Meta, error) {
	external := r.external[consumer]
	return readMeta(msg, reading{external: external, saga: !external || r.remote[consumer], key: !external || r.sagaGroups[consumer]})
}

// reading says which headers of a message are used.
type reading struct {
	external bool // it comes from another service
	saga     bool // those of sagas
	key      bool // the key becomes the key of other messages, so that it is checked; else it only orders, and may be any bytes
	plain    bool // it may be a message of any Watermill program: its id is then its UUID, and its type the name that Watermill's marshalers write
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
