package httpapi

import (
	_ "embed"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:generate go tool -modfile=../../tools/lint/lint.mod oapi-codegen -config oapi-codegen.yaml operations.yaml

//go:embed operations.yaml
var operationsYAML []byte

// specification is the OpenAPI document that a server serves, and the access of each operation in the document.
type specification struct {
	document   []byte
	title      string
	operations map[string]operation // "GET /v1/orders/{id}"
}

// specification merges the document of the service with operations.yaml and reads the access of each operation from the result.
func (s *Server) specification() (spec specification, err error) {
	spec.document = operationsYAML
	if s.Service != nil && len(s.Service.OpenAPI) > 0 {
		if spec.document, err = merge(s.Service.OpenAPI, operationsYAML); err != nil {
			return spec, err
		}
	}
	var head struct {
		Info struct {
			Title string `yaml:"title"`
		} `yaml:"info"`
	}
	if err := yaml.Unmarshal(spec.document, &head); err != nil {
		return spec, fmt.Errorf("openapi.yaml: %w", err)
	}
	spec.title = head.Info.Title
	spec.operations, err = readAccess(spec.document)
	return spec, err
}

// merge adds the paths and the components of operations to the document of a service, and keeps the title and the other parts of that document. The
// error names every operation that both documents have, and every component that differs.
func merge(service, operations []byte) ([]byte, error) {
	into, err := parse("the service's openapi.yaml", service)
	if err != nil {
		return nil, err
	}
	from, err := parse("operations.yaml", operations)
	if err != nil {
		return nil, err
	}
	var faults []error
	eachEntry(child(from, "paths"), func(path, item *yaml.Node) {
		own := child(mapping(into, "paths"), path.Value)
		if own == nil {
			add(mapping(into, "paths"), path, item)
			return
		}
		eachEntry(item, func(key, node *yaml.Node) {
			method := strings.ToUpper(key.Value)
			switch existing := child(own, key.Value); {
			case existing == nil:
				add(own, key, node)
			case slices.Contains(methods, method):
				faults = append(faults, fmt.Errorf("openapi.yaml: %s %s is an operation of the kit (operations.yaml): choose another path", method, path.Value))
			case !equal(existing, node):
				faults = append(faults, fmt.Errorf("openapi.yaml: %s of %s differs from that in the kit's operations.yaml", key.Value, path.Value))
			}
		})
	})
	eachEntry(child(from, "components"), func(section, components *yaml.Node) {
		own := mapping(mapping(into, "components"), section.Value)
		eachEntry(components, func(name, node *yaml.Node) {
			switch existing := child(own, name.Value); {
			case existing == nil:
				add(own, name, node)
			case !equal(existing, node):
				faults = append(faults, fmt.Errorf("openapi.yaml: components/%s/%s differs from that in the kit's operations.yaml: rename it, or copy the kit's", section.Value, name.Value))
			}
		})
	})
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	var out strings.Builder
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(into); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return []byte(out.String()), nil
}

// parse reads a YAML document, which must be a mapping.
func parse(name string, document []byte) (*yaml.Node, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(document, &node); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(node.Content) != 1 || node.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s is not an OpenAPI document", name)
	}
	return node.Content[0], nil
}

// child returns the value of a key of a mapping; nil if there is no such key.
func child(of *yaml.Node, key string) (found *yaml.Node) {
	eachEntry(of, func(k, v *yaml.Node) {
		if k.Value == key {
			found = v
		}
	})
	return found
}

// mapping returns the mapping under a key of a mapping. It creates the mapping if it is missing or empty.
func mapping(of *yaml.Node, key string) *yaml.Node {
	found := child(of, key)
	if found == nil {
		found = &yaml.Node{}
		add(of, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, found)
	}
	if found.Kind != yaml.MappingNode {
		*found = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	return found
}

func add(to, key, v *yaml.Node) {
	to.Style &^= yaml.FlowStyle // "paths: {}" would become one long line
	to.Content = append(to.Content, key, v)
}

func eachEntry(of *yaml.Node, visit func(key, v *yaml.Node)) {
	if of == nil || of.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(of.Content); i += 2 {
		visit(of.Content[i], of.Content[i+1])
	}
}

// equal compares the values of two nodes, not their notation.
func equal(a, b *yaml.Node) bool {
	var left, right any
	return a.Decode(&left) == nil && b.Decode(&right) == nil && reflect.DeepEqual(left, right)
}
