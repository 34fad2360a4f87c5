package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/tools/rename"
)

// name is what the service is called.
func name() string { return rename.Name }

// resources takes paths out of a description of an API, and the components that only they refer to.
func resources(file string, beginnings ...string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	root := doc.Content[0]
	before := len(child(root, "paths").Content)
	keep(child(root, "paths"), func(path string) bool {
		return !slices.ContainsFunc(beginnings, func(b string) bool { return path == b || strings.HasPrefix(path, b+"/") })
	})
	if len(child(root, "paths").Content) == before {
		return fmt.Errorf("%s: none of %q is there", file, beginnings)
	}
	for { // what was referred to by what is gone
		text, err = yaml.Marshal(&doc)
		if err != nil {
			return err
		}
		gone := false
		components := child(root, "components")
		for i := 0; i < len(components.Content); i += 2 {
			kind := components.Content[i].Value
			if kind == "securitySchemes" {
				continue
			}
			keep(components.Content[i+1], func(name string) bool {
				referred := regexp.MustCompile(`#/components/` + kind + `/` + regexp.QuoteMeta(name) + `\b`).Match(text)
				gone = gone || !referred
				return referred
			})
		}
		if !gone {
			return os.WriteFile(file, text, 0o600) //nolint:gosec // a file of the service
		}
	}
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return &yaml.Node{}
}

// keep leaves the pairs of a mapping whose keys are wanted.
func keep(n *yaml.Node, wanted func(key string) bool) {
	var kept []*yaml.Node
	for i := 0; i < len(n.Content); i += 2 {
		if wanted(n.Content[i].Value) {
			kept = append(kept, n.Content[i], n.Content[i+1])
		}
	}
	n.Content = kept
}

// statements takes those out of a migration that make or change one of these tables; of those that drop several, the names.
func statements(file string, tables ...string) error {
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return err
	}
	parts := strings.SplitAfter(string(text), ";\n")
	var kept []string
	for _, part := range parts {
		mentioned := slices.ContainsFunc(tables, func(t string) bool { return strings.Contains(part, t) })
		switch {
		case !mentioned:
			kept = append(kept, part)
		case strings.Contains(part, "DROP TABLE"):
			for _, t := range tables {
				part = strings.Replace(part, " "+t+",", "", 1)
			}
			kept = append(kept, part)
		default:
			for line := range strings.Lines(part) { // what stands above it and is goose's
				if strings.HasPrefix(line, "-- +goose") {
					kept = append(kept, line)
				}
			}
		}
	}
	if len(kept) == len(parts) {
		return fmt.Errorf("%s: nothing is there of %q", file, tables)
	}
	return os.WriteFile(file, []byte(strings.Join(kept, "")), 0o600) //nolint:gosec // a file of the service
}

// phony has a Makefile's .PHONY name the targets that are there.
func phony(file string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	targets := []string{".PHONY:"}
	for _, found := range regexp.MustCompile(`(?m)^([a-z-]+):.*##`).FindAllSubmatch(text, -1) {
		targets = append(targets, string(found[1]))
	}
	text = regexp.MustCompile(`(?m)^\.PHONY:.*$`).ReplaceAll(text, []byte(strings.Join(targets, " ")))
	return os.WriteFile(file, text, 0o600) //nolint:gosec // a file of the service
}
