package messaging

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
)

// AsyncAPI describes the topics and messages of a service as an AsyncAPI 3.0 document in YAML
// (https://www.asyncapi.com/docs/reference/specification/v3.0.0): the commands that its handlers receive or that it sends to other services, the
// events that its aggregates publish, and the events that its consumers receive. Prefix is the topic prefix of the service. Events are its event
// types by category. Answers are the events by which every category may answer a saga. Prefixes are the topic prefixes of other services by their
// names.
func AsyncAPI(title, prefix string, handlers []cqrs.Handler, events map[string]aggregate.Types, answers aggregate.Types, consumers []cqrs.EventConsumer, prefixes map[string]string) ([]byte, error) {
	d := document{
		AsyncAPI: "3.0.0", DefaultContentType: "application/json",
		Info: info{
			Title: title, Version: "1.0.0",
			Description: "Messages bear the attributes of CloudEvents as headers (binary content mode). Those of one key keep their order. Each may come more than once: remember ce_id.",
		},
		Channels: map[string]channel{}, Operations: map[string]operation{},
		Components: components{Messages: map[string]described{}, Schemas: map[string]any{"Headers": headers}},
	}
	for _, h := range handlers {
		name, topic, action, as := "commands."+h.Destination, CommandTopic(prefix, h.Destination), "receive", h.Type.Name
		if h.Service != "" {
			name, topic, action, as = h.Service+"."+name, CommandTopic(prefixes[h.Service], h.Destination), "send", h.Service+"."+as
		}
		if err := d.add(name, topic, action, as, h.Type); err != nil {
			return nil, err
		}
	}
	for category, types := range events {
		for _, t := range append(types.All(), answers.All()...) {
			if err := d.add("events."+category, EventTopic(prefix, category), "send", t.Name, t); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range consumers {
		for _, on := range r.On {
			if err := d.add(r.From+".events."+r.Category, EventTopic(prefixes[r.From], r.Category), "receive", r.From+"."+on.Type.Name, on.Type); err != nil {
				return nil, err
			}
		}
	}
	return yaml.Marshal(d)
}

type document struct {
	AsyncAPI           string               `yaml:"asyncapi"`
	Info               info                 `yaml:"info"`
	DefaultContentType string               `yaml:"defaultContentType"`
	Channels           map[string]channel   `yaml:"channels"`
	Operations         map[string]operation `yaml:"operations"`
	Components         components           `yaml:"components"`
}

type info struct {
	Title       string `yaml:"title"`
	Version     string `yaml:"version"`
	Description string `yaml:"description"`
}

type channel struct {
	Address  string               `yaml:"address"`
	Messages map[string]reference `yaml:"messages"`
}

type operation struct {
	Action   string      `yaml:"action"`
	Channel  reference   `yaml:"channel"`
	Messages []reference `yaml:"messages"`
}

type reference struct {
	Ref string `yaml:"$ref"`
}

type components struct {
	Messages map[string]described `yaml:"messages"`
	Schemas  map[string]any       `yaml:"schemas"`
}

type described struct {
	Name    string         `yaml:"name"`
	Title   string         `yaml:"title"`
	Headers reference      `yaml:"headers"`
	Payload reference      `yaml:"payload"`
	Binding map[string]any `yaml:"bindings"`
}

// add adds a message type to a channel and its operation. The message and its schema have the key as in the document.
func (d *document) add(name, topic, action, as string, t aggregate.Type) error {
	if _, known := d.Components.Messages[as]; !known {
		schema, err := schemaOf(reflect.TypeOf(t.New()).Elem())
		if err != nil {
			return fmt.Errorf("describe %s: %w", t.Name, err)
		}
		schema["title"] = fmt.Sprintf("%s, schema version %d", t.Name, t.Schema)
		d.Components.Schemas[as] = schema
		d.Components.Messages[as] = described{
			Name: t.Name, Title: strings.ReplaceAll(t.Name, "-", " "), Headers: reference{"#/components/schemas/Headers"}, Payload: reference{"#/components/schemas/" + as},
			Binding: map[string]any{"kafka": map[string]any{"key": map[string]any{"type": "string", "description": "messages of one key keep their order"}}},
		}
	}
	c, known := d.Channels[name]
	if !known {
		c = channel{topic, map[string]reference{}}
		d.Channels[name] = c
	}
	c.Messages[as] = reference{"#/components/messages/" + as}
	o := operation{Action: action, Channel: reference{"#/channels/" + name}}
	for _, m := range slices.Sorted(maps.Keys(c.Messages)) {
		o.Messages = append(o.Messages, reference{"#/channels/" + name + "/messages/" + m})
	}
	d.Operations[action+"."+name] = o
	return nil
}

// schemaOf returns the JSON Schema of the JSON encoding of a Go type.
func schemaOf(t reflect.Type) (map[string]any, error) {
	schema, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[json.RawMessage](): {Types: []string{"object", "array", "string", "number", "boolean", "null"}},
	}})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	err = json.Unmarshal(text, &out)
	open(out)
	return out, err
}

// open allows additional fields in every object of a schema, because a later version may add fields.
func open(schema map[string]any) {
	switch more := schema["additionalProperties"].(type) {
	case bool:
		delete(schema, "additionalProperties")
	case map[string]any: // the schema of a map's values; {"not": …} forbids additional fields
		if _, none := more["not"]; none {
			delete(schema, "additionalProperties")
		}
	}
	for _, part := range schema {
		switch part := part.(type) {
		case map[string]any:
			open(part)
		case []any:
			for _, p := range part {
				if m, ok := p.(map[string]any); ok {
					open(m)
				}
			}
		}
	}
}

// headers is the JSON Schema of the message headers.
var headers = map[string]any{
	"type":     "object",
	"required": []string{cqrs.HeaderSpec, cqrs.HeaderID, cqrs.HeaderType, cqrs.HeaderSource, cqrs.HeaderTime, cqrs.HeaderKey, cqrs.HeaderSchema},
	"properties": map[string]any{
		cqrs.HeaderSpec:        text("the version of CloudEvents: 1.0"),
		cqrs.HeaderID:          text("the message's id; the same message may come more than once"),
		cqrs.HeaderType:        text("the name of the message"),
		cqrs.HeaderSource:      text("the service that sent it"),
		cqrs.HeaderSubject:     text("the aggregate: its kind, a slash, its id"),
		cqrs.HeaderTime:        map[string]any{"type": "string", "format": "date-time", "description": "when it was decided"},
		cqrs.HeaderKey:         text("the key by which messages keep their order"),
		cqrs.HeaderSequence:    text("of an event: its number in the aggregate's history, from 1"),
		cqrs.HeaderContent:     text("application/json"),
		cqrs.HeaderSchema:      text("the version of the payload's shape, from 1"),
		cqrs.HeaderCorrelation: text("the id of the message that began it all"),
		cqrs.HeaderCausation:   text("the id of the message that it answers"),
		cqrs.HeaderSagaID:      text("the saga that it belongs to"),
		cqrs.HeaderSagaStep:    text("the step of the saga"),
		cqrs.HeaderBranch:      map[string]any{"type": "string", "enum": []string{string(cqrs.BranchAction), string(cqrs.BranchCompensation)}, "description": "forwards, or back"},
		cqrs.HeaderExpires:     map[string]any{"type": "string", "format": "date-time", "description": "of a command: it is refused afterwards"},
		cqrs.HeaderTrace:       text("W3C trace context"),
		cqrs.HeaderHandledBy:   text("of an event: the sagas of its own service that have handled it already, separated by commas; others ignore it"),
	},
}

func text(description string) map[string]any {
	return map[string]any{"type": "string", "description": description}
}
