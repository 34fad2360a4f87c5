package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func makeConsumer(p *piece, args []string, flags map[string]string) error {
	if err := checkName("NAME", args[0], "returns", dashed); err != nil {
		return err
	}
	p.Name = args[0]
	p.Lower, p.File = camel(pascal(args[0])), strings.ReplaceAll(args[0], "-", "_")+".go"
	parts := dotted.FindStringSubmatch(flags["from"])
	if parts == nil {
		return fmt.Errorf("--from: %q must be a service and a kind of its aggregates, like bank.transfers", flags["from"])
	}
	p.From, p.Category = parts[1], parts[2]
	for message := range strings.SplitSeq(flags["on"], ",") {
		parts := dotted.FindStringSubmatch(strings.TrimSpace(message))
		if parts == nil {
			return fmt.Errorf("--on: %q must be messages with commas between them, like transfer.booked", flags["on"])
		}
		name := pascal(parts[0])
		p.Receives = append(p.Receives, received{parts[0], name, camel(name)})
	}
	if err := p.checkConsumer(); err != nil {
		return err
	}
	if err := p.writeAll("consumer", filepath.Join("app/consumer", p.File), "consumer_test", filepath.Join("app/consumer", strings.TrimSuffix(p.File, ".go")+"_test.go")); err != nil {
		return err
	}
	return errors.Join(edit("app/consumer/consumer.go", returned("All", p.Lower+"{d.Commands}.consumer()")),
		exampleSetting(strings.ToUpper(p.From)+"_TOPICS", p.From, "The prefix of the topics of "+p.From+"."))
}

// checkConsumer checks that a consumer can be made, or was made before by the same arguments.
func (p *piece) checkConsumer() error {
	file := filepath.Join("app/consumer", p.File)
	made := []string{p.Lower}
	for _, r := range p.Receives {
		if slices.Contains(made, r.Lower) {
			return fmt.Errorf("--on: %q needs the name %s, which the consumer or another message has; choose another name", r.Message, r.Lower)
		}
		made = append(made, r.Lower)
	}
	if err := errors.Join(checkFile(p.Name, p.File), declares("NAME", p.Name, file, made...)); err != nil || !exists(file) {
		return err
	}
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	for _, r := range p.Receives {
		if !strings.Contains(string(text), strconv.Quote(r.Message)) {
			return fmt.Errorf("--on: %s is there already and does not receive %s: add it by hand", file, r.Message)
		}
	}
	for _, name := range []string{p.From, p.Category} {
		if !strings.Contains(string(text), strconv.Quote(name)) {
			return fmt.Errorf("--from: %s is there already and does not consume %s.%s: change it by hand, or choose another name", file, p.From, p.Category)
		}
	}
	return nil
}

func makeSaga(p *piece, args []string, flags map[string]string) error {
	if err := checkName("NAME", args[0], "dunning or book-trip", dashed); err != nil {
		return err
	}
	parts := eventOf.FindStringSubmatch(flags["on"])
	if parts == nil {
		return fmt.Errorf("--on: %q must be an event, like invoice.Issued", flags["on"])
	}
	p.Name, p.Package, p.Type = args[0], strings.ReplaceAll(args[0], "-", ""), pascal(args[0])
	p.OnPkg, p.OnName = strings.ReplaceAll(parts[1], "-", ""), parts[2]
	p.On = p.OnPkg + "." + p.OnName
	var err error
	if p.Stages, err = stagesOf(flags["steps"], flags["pivot"], p.On); err != nil {
		return err
	}
	if err := p.eventExists(parts[1]); err != nil {
		return err
	}
	dir := filepath.Join("sagas", p.Package)
	if err := p.checkSaga(filepath.Join(dir, p.Package+".go"), flags["pivot"]); err != nil {
		return err
	}
	if err := p.writeAll("saga", filepath.Join(dir, p.Package+".go"), "saga_test", filepath.Join(dir, p.Package+"_test.go")); err != nil {
		return err
	}
	var missing []change
	for _, s := range p.Stages {
		missing = append(missing, addStage(s))
	}
	return errors.Join(edit(filepath.Join(dir, p.Package+".go"), missing...),
		edit("sagas/sagas.go", needs(p.Module+"/sagas/"+p.Package), returned("All", "saga.New("+p.Package+".Definition)")))
}

// stagesOf parses --steps: stages are separated by commas, parallel steps of a stage by +, and the kind of a step is before its name.
func stagesOf(steps, pivot, on string) (stages []sagaStage, err error) {
	passed := false
	for stage := range strings.SplitSeq(steps, ",") {
		var made sagaStage
		for one := range strings.SplitSeq(stage, "+") {
			kind, name, has := strings.Cut(one, ":")
			if !has {
				kind, name = "", one
			}
			kind, name = strings.TrimSpace(kind), strings.Join(strings.Fields(name), " ")
			if name == "" {
				continue
			}
			isPivot := name == pivot
			switch {
			case has && !slices.Contains(stepKinds, kind):
				return nil, fmt.Errorf("--steps: the kind %q of %q is none of %s", kind, name, strings.Join(stepKinds, ", "))
			case isPivot && kind != "" && kind != "saga" && kind != "if", isPivot && strings.Contains(stage, "+"):
				return nil, fmt.Errorf("--pivot: %q must stand alone, and be a command that is sent once", name)
			}
			made = append(made, sagaStep{kind, name, on, !passed && !isPivot && kind != "until" && !slices.Contains(waitKinds, kind), isPivot, passed && !slices.Contains(waitKinds, kind), !passed})
		}
		if len(made) == 0 {
			continue
		}
		stages = append(stages, made)
		passed = passed || made[0].Pivot
	}
	switch {
	case len(stages) == 0:
		return nil, errors.New("--steps: a saga needs at least one step")
	case pivot != "" && !passed:
		return nil, fmt.Errorf("--pivot: %q is none of --steps", pivot)
	}
	return stages, nil
}

// eventExists returns an error if the domain does not have the event.
func (p *piece) eventExists(aggregate string) error {
	text, err := os.ReadFile(filepath.Join("domain", p.OnPkg, "events.go"))
	if err != nil {
		return fmt.Errorf("there is no aggregate %s yet: go run ./tools/scaffold aggregate %s", aggregate, aggregate)
	}
	if !strings.Contains(string(text), "type "+p.OnName+" struct") {
		return fmt.Errorf("there is no event %s yet: go run ./tools/scaffold event %s %s", p.On, aggregate, p.OnName)
	}
	return nil
}

// stepKinds are the kinds of steps besides the default, a command that is sent once.
var stepKinds = []string{"if", "each", "until", "delay", "signal", "event", "saga"}

// waitKinds are the kinds of steps that send no command.
var waitKinds = []string{"delay", "signal", "event"}
