// Package messaging carries commands and events over Watermill. It has a marshaler for CloudEvents headers, the command and event buses, a router for
// the handlers, sagas and projections of a service, and middleware.
//
// The middleware works in any Watermill program. KeyOrder, DeadLetters, Retry and Inbox are message.HandlerMiddleware for a message.Router whose
// handlers come from Watermill's cqrs.NewCommandHandler and cqrs.NewEventHandler. OnSend, OnPublish, CommandsFromBus, EventsFromBus and SagaHandlers
// run a saga over Watermill's buses and processors; see kit/examples/saga.
package messaging

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// Marshaler is Watermill's CommandEventMarshaler for cqrs.Command and cqrs.Event. It writes CloudEvents headers and a JSON payload, or another format
// for types with a Codec. It upcasts incoming payloads of older schema versions.
type Marshaler struct {
	types  aggregate.Types
	source string
	codecs map[string]Codec // of messages in formats other than JSON, by their names
}

// NewMarshaler makes a marshaler for messages of these types. Source names this service in the header ce_source; it is a URI reference.
func NewMarshaler(types aggregate.Types, source string) Marshaler {
	return Marshaler{types: types, source: source}
}

// Marshal implements wcqrs.CommandEventMarshaler for values of type cqrs.Command and cqrs.Event. Any other value is an error.
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
		{cqrs.HeaderSequence, sequence(meta.Version)}, {cqrs.HeaderHandledBy, strings.Join(meta.HandledBy, ",")},
	} {
		if h.value != "" {
			msg.Metadata[h.name] = h.value
		}
	}
	return msg, m.encode(msg, body)
}

// maxHeaders is the maximum number of headers of an outgoing message.
const maxHeaders = 19

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

// Unmarshal implements wcqrs.CommandEventMarshaler. V is a pointer to a registered type. The error wraps cqrs.ErrPermanent.
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

// Name implements wcqrs.CommandEventMarshaler. It returns the stored name of the type of v; empty if the type is not registered.
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

// NameFromMessage implements wcqrs.CommandEventMarshaler. It returns the header ce_type.
func (m Marshaler) NameFromMessage(msg *message.Message) string {
	return msg.Metadata.Get(cqrs.HeaderType)
}

// known returns an error that wraps cqrs.ErrPermanent if the type of the message is not registered.
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
