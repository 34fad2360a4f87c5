// Package messages is how messages come in and go out: CloudEvents headers, the buses, the routers with their middleware in
// an order that has reasons, and the dead letters.
package messages

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/app"
	"github.com/millrace/millrace/domain/aggregate"
)

// Marshaler is Watermill's CommandEventMarshaler for app.Command and app.Event: JSON payloads under CloudEvents headers, other forms where a Codec says so.
// Incoming payloads of older schema versions are lifted.
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
	var meta app.Meta
	key := ""
	due := time.Time{}
	switch v := v.(type) {
	case app.Command:
		body, meta, due = v.Body, v.Meta, v.DueAt
		keyed, ok := v.Body.(app.Keyed)
		if !ok {
			return nil, fmt.Errorf("command %T has no method Key", v.Body)
		}
		key = keyed.Key()
		if err := app.CheckText("key of "+m.Name(v), key, app.MaxKey); err != nil {
			return nil, err
		}
	case app.Event:
		body, meta, key = v.Body, v.Meta, v.Key
	default:
		return nil, fmt.Errorf("%T is neither an app.Command nor an app.Event", v)
	}
	t, payload, err := m.types.Encode(body)
	if err != nil {
		return nil, err
	}
	msg := message.NewMessage(meta.ID, payload)
	msg.Metadata = make(message.Metadata, maxHeaders)
	for _, h := range [...]header{
		{app.HeaderSpec, "1.0"}, {app.HeaderContent, "application/json"}, {app.HeaderSource, m.source}, {app.HeaderID, meta.ID},
		{app.HeaderType, t.Name}, {app.HeaderSchema, strconv.Itoa(t.Schema)}, {app.HeaderTime, meta.Time.UTC().Format(time.RFC3339Nano)},
		{app.HeaderKey, key},
	} {
		msg.Metadata[h.name] = h.value
	}
	for _, h := range [...]header{
		{app.HeaderSubject, meta.Subject}, {app.HeaderCorrelation, meta.Correlation}, {app.HeaderCausation, meta.Causation},
		{app.HeaderSagaID, meta.SagaID}, {app.HeaderSagaStep, meta.SagaStep}, {app.HeaderBranch, string(meta.Branch)},
		{app.HeaderTrace, meta.Trace[app.HeaderTrace]}, {app.HeaderExpires, stamp(meta.ExpiresAt)}, {app.HeaderDue, stamp(due)},
		{app.HeaderSequence, sequence(meta.Version)},
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

// Unmarshal implements cqrs.CommandEventMarshaler; v is a pointer to a registered type. The error is app.ErrPoison.
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
	return fmt.Errorf("a %T is not a %s: %w", body, target.Type(), app.ErrPoison)
}

func (m Marshaler) decode(msg *message.Message) (any, error) {
	if c, ok := m.other(msg); ok {
		body, err := c.Decode(msg.Payload)
		if err != nil {
			return nil, fmt.Errorf("%w: decode %s from %s: %w", app.ErrPoison, c.Name, c.ContentType, err)
		}
		return body, nil
	}
	if bytes.Equal(bytes.TrimSpace(msg.Payload), []byte("null")) {
		return nil, fmt.Errorf("payload of %s: is null: %w", msg.Metadata.Get(app.HeaderType), app.ErrPermanent)
	}
	schema := 1
	if text := msg.Metadata.Get(app.HeaderSchema); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("header %s: %q is not a number: %w", app.HeaderSchema, text, app.ErrPoison)
		}
		schema = n
	}
	body, err := m.types.Decode(msg.Metadata.Get(app.HeaderType), schema, msg.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", app.ErrPoison, err)
	}
	return body, nil
}

// Name implements cqrs.CommandEventMarshaler.
func (m Marshaler) Name(v any) string {
	switch envelope := v.(type) {
	case app.Command:
		v = envelope.Body
	case app.Event:
		v = envelope.Body
	}
	t, _ := m.types.Of(v)
	return t.Name
}

// NameFromMessage implements cqrs.CommandEventMarshaler.
func (m Marshaler) NameFromMessage(msg *message.Message) string {
	return msg.Metadata.Get(app.HeaderType)
}

// known returns an error, app.ErrPoison, for a message whose type nobody here knows.
func (m Marshaler) known(msg *message.Message) error {
	name := m.NameFromMessage(msg)
	if name == "" {
		return fmt.Errorf("no header %s: %w", app.HeaderType, app.ErrPoison)
	}
	if _, ok := m.types.Named(name); !ok {
		return fmt.Errorf("header %s: %q: %w: %w", app.HeaderType, name, aggregate.ErrUnknownType, app.ErrPoison)
	}
	return nil
}

// metaOf reads the headers of an incoming message. Text is checked here, so that no later part meets bytes that the database refuses. The
// headers of sagas, and a command's end of validity, count on this service's own topics, and on those of a service that takes part in its
// sagas; elsewhere they are another service's business. The error names the header that is wrong, and is app.ErrPermanent.
func (r *Router) metaOf(consumer string, msg *message.Message) (app.Meta, error) {
	h := msg.Metadata
	m := app.Meta{ID: h[app.HeaderID], Type: h[app.HeaderType], Subject: h[app.HeaderSubject], Correlation: h[app.HeaderCorrelation], Causation: h[app.HeaderCausation]}
	checked := []string{app.HeaderID, app.HeaderType, app.HeaderSubject, app.HeaderCorrelation, app.HeaderCausation, app.HeaderTrace}
	external, internal := r.external[consumer], !r.external[consumer] || r.remote[consumer]
	if external {
		m.Source = h[app.HeaderSource]
		checked = append(checked, app.HeaderSource)
	}
	if internal {
		m.SagaID, m.SagaStep, m.Branch = h[app.HeaderSagaID], h[app.HeaderSagaStep], app.Branch(h[app.HeaderBranch])
		checked = append(checked, app.HeaderSagaID, app.HeaderSagaStep)
	}
	if !external || r.sagaGroups[consumer] {
		checked = append(checked, app.HeaderKey) // it becomes the key of what comes of the message; else it only orders, and may be any bytes
	}
	for _, name := range checked {
		if err := app.CheckText("header "+name, h[name], app.MaxKey); err != nil {
			return m, err
		}
	}
	if trace := h[app.HeaderTrace]; trace != "" {
		m.Trace = map[string]string{app.HeaderTrace: trace}
	}
	for _, name := range []string{app.HeaderID, app.HeaderType} {
		if h[name] == "" {
			return m, fmt.Errorf("no header %s: %w", name, app.ErrPermanent)
		}
	}
	switch m.Branch {
	case "", app.Do, app.Undo:
	default:
		return m, fmt.Errorf("header %s: %q is neither do nor undo: %w", app.HeaderBranch, m.Branch, app.ErrPermanent)
	}
	if m.Branch != "" && (m.SagaID == "" || m.SagaStep == "") {
		return m, fmt.Errorf("header %s needs %s and %s beside it: %w", app.HeaderBranch, app.HeaderSagaID, app.HeaderSagaStep, app.ErrPermanent)
	}
	var wrong [4]error
	m.Time, wrong[0] = timeIn(h, app.HeaderTime)
	if internal {
		m.ExpiresAt, wrong[1] = timeIn(h, app.HeaderExpires)
	}
	m.Version, wrong[2] = numberIn(h, app.HeaderSequence)
	m.Schema, wrong[3] = numberIn(h, app.HeaderSchema)
	return m, cmp.Or(wrong[:]...)
}

func timeIn(h message.Metadata, name string) (time.Time, error) {
	if h[name] == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, h[name])
	if err != nil {
		return at, fmt.Errorf("header %s: %q is not a time of RFC 3339: %w", name, h[name], app.ErrPoison)
	}
	return at.UTC(), nil
}

func numberIn(h message.Metadata, name string) (int, error) {
	if h[name] == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(h[name])
	if err != nil || n < 0 {
		return 0, fmt.Errorf("header %s: %q is not a number: %w", name, h[name], app.ErrPoison)
	}
	return n, nil
}
