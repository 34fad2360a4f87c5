package messaging

import (
	"fmt"
	"reflect"

	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/kit/cqrs"
)

// Codec encodes and decodes the payloads of one type of message in a format other than JSON. An incoming message is decoded with it if its header
// content-type equals ContentType, and as JSON otherwise. Outgoing messages are always encoded with it.
type Codec struct {
	Name        string // the stored name of the message type: "delivery.arrived"
	ContentType string
	Encode      func(body any) ([]byte, error)
	Decode      func(payload []byte) (any, error)
}

// Protobuf makes the codec of a message whose payload is the Protocol Buffers message P; P is a pointer type. It uses Watermill's Protobuf marshaler.
// E is the type that handlers receive; to and from convert between E and P. A codec for another format, such as Avro, sets Encode and Decode itself.
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

// In returns a marshaler with these codecs, in place of any codecs of m.
func (m Marshaler) In(codecs ...Codec) Marshaler {
	m.codecs = map[string]Codec{}
	for _, c := range codecs {
		m.codecs[c.Name] = c
	}
	return m
}

// encode replaces the JSON payload of an outgoing message if a codec is set for its type.
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

// other returns the codec of an incoming message. It returns false if the payload is JSON.
func (m Marshaler) other(msg *message.Message) (Codec, bool) {
	c, ok := m.codecs[msg.Metadata.Get(cqrs.HeaderType)]
	return c, ok && msg.Metadata.Get(cqrs.HeaderContent) == c.ContentType
}
