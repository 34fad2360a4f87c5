package messaging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/kit/cqrs"
)

// checkPayload checks the text in a decoded payload from outside. JSON can hold a NUL character as \u0000, which PostgreSQL's types text and json
// cannot store. The error is permanent and names the field.
func (m Marshaler) checkPayload(msg *message.Message, body any) error {
	payload := msg.Payload
	if c, ok := m.other(msg); ok {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return fmt.Errorf("payload of %s: %w: %w", c.Name, err, cqrs.ErrPermanent)
		}
	}
	if !utf8.Valid(payload) {
		return cqrs.CheckText("payload", string(payload), 0)
	}
	if !bytes.Contains(payload, []byte(`\u0000`)) {
		return nil
	}
	var value any
	if err := json.Unmarshal(payload, &value); err != nil {
		return fmt.Errorf("payload: %w: %w", err, cqrs.ErrPermanent)
	}
	return checkFields("", value)
}

func checkFields(field string, value any) error {
	switch value := value.(type) {
	case string:
		return cqrs.CheckText(field, value, 0)
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			below := name
			if field != "" {
				below = field + "." + name
			}
			if err := cqrs.CheckText("name of field "+strconv.Quote(below), name, 0); err != nil {
				return err
			}
			if err := checkFields(below, value[name]); err != nil {
				return err
			}
		}
	case []any:
		for i, element := range value {
			if err := checkFields(fmt.Sprintf("%s[%d]", field, i), element); err != nil {
				return err
			}
		}
	}
	return nil
}
