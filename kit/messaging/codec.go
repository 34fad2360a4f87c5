package messaging

import (
	"fmt"
	"reflect"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/kit/cqrs"
)

// Codec is another format than JSON for the payloads of one type of message. An incoming message has this format if its header content-type
// says so, and is JSON otherwise. Outgoing messages always have it.
type Codec struct {
	Name        string // of the message: "delivery.arrived"
	ContentType string
	Encode      func(body any) ([]byte, error)
	Decode      func(payload []byte) (any, error)
}

// Protobuf is the codec of a message whose payload is a P, by Watermill's Protobuf marshaler. E is the type for handlers. An Avro codec would
// be written like it, with its own two functions.
func Protobuf[E any, P proto.Message](name string, to func(E) P, from func(P) E) Codec {
	m := wcqrs.ProtoMarshaler{}
	return Codec{
		Name: name, ContentType: "application/protobuf",
		Encode: func(body any) ([]byte, error) {
			msg, err := m.Marshal(to(body.(E)))
			if err != nil {
				return nil, err
			}
			return msg.Payload, nil
		},
		Decode: func(payload []byte) (any, error) {
			p := reflect.New(reflect.TypeFor[P]().Elem()).Interface().(P)
			if err := m.Unmarshal(message.NewMessage("", payload), p); err != nil {
				return nil, err
			}
			return from(p), nil
		},
	}
}

// In sets the codecs of messages in other formats than JSON.
func (m Marshaler) In(codecs ...Codec) Marshaler {
	m.codecs = map[string]Codec{}
	for _, c := range codecs {
		m.codecs[c.Name] = c
	}
	return m
}

// encode puts a body into its other form, if it has one.
func (m Marshaler) encode(msg *message.Message, body any) error {
	c, ok := m.codecs[msg.Metadata[cqrs.HeaderType]]
	if !ok {
		return nil
	}
	payload, err := c.Encode(body)
	if err != nil {
		return fmt.Errorf("encode %s as %s: %w", c.Name, c.ContentType, err)
	}
	msg.Payload, msg.Metadata[cqrs.HeaderContent] = payload, c.ContentType
	return nil
}

// other is the codec of an incoming message; false: JSON.
func (m Marshaler) other(msg *message.Message) (Codec, bool) {
	c, ok := m.codecs[msg.Metadata.Get(cqrs.HeaderType)]
	return c, ok && msg.Metadata.Get(cqrs.HeaderContent) == c.ContentType
}
