package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// stepKeys are the fields of saga.Step that a step of each kind has. One of them is enough.
var stepKeys = map[string][]string{
	"": {"Action"}, "if": {"SkipIf"}, "each": {"ForEach"}, "until": {"Until"}, "delay": {"Delay", "DelayUntil"}, "signal": {"Signal"}, "event": {"Await"}, "saga": {"Child"},
}

// madeStep is a step of an existing definition: its fields, and the number of its stage.
type madeStep struct {
	fields map[string]string
	stage  int
}

// definition has the steps of an existing saga by their names, and its starting events.
type definition struct {
	steps  map[string]madeStep
	stages int
	pivot  string
	start  string
}

// definitionOf reads a saga's definition.
func definitionOf(file string) (d definition, err error) {
	source, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return d, err
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return d, err
	}
	at := func(pos token.Pos) int { return set.Position(pos).Offset }
	d.steps = map[string]madeStep{}
	valueOf := func(key string) (ast.Expr, bool) {
		pair, ok := find(parsed, func(p *ast.KeyValueExpr) bool { return text(string(source), p.Key, at) == key })
		if !ok {
			return nil, false
		}
		return pair.Value, true
	}
	for _, key := range []string{"Start", "StartAny", "StartAll"} {
		if start, ok := valueOf(key); ok {
			d.start += text(string(source), start, at)
		}
	}
	steps, _ := valueOf("Steps")
	list, ok := steps.(*ast.CompositeLit)
	if !ok {
		return d, fmt.Errorf("%s: there is no definition with a list Steps", file)
	}
	d.stages = len(list.Elts)
	for stage, element := range list.Elts {
		step, ok := element.(*ast.CompositeLit)
		if !ok {
			continue
		}
		made := []ast.Expr{step}
		if parallel, is := find(step, func(p *ast.KeyValueExpr) bool { return text(string(source), p.Key, at) == "Parallel" }); is {
			if several, is := parallel.Value.(*ast.CompositeLit); is {
				made = several.Elts
			}
		}
		for _, one := range made {
			d.add(one, stage, func(n ast.Node) string { return text(string(source), n, at) })
		}
	}
	return d, nil
}

func (d *definition) add(e ast.Expr, stage int, textOf func(ast.Node) string) {
	literal, ok := e.(*ast.CompositeLit)
	if !ok {
		return
	}
	fields := map[string]string{}
	for _, e := range literal.Elts {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			fields[textOf(pair.Key)] = textOf(pair.Value)
		}
	}
	name, err := strconv.Unquote(fields["Name"])
	if err != nil {
		return
	}
	d.steps[name] = madeStep{fields, stage}
	if fields["Pivot"] == "true" {
		d.pivot = name
	}
}

// checkSaga checks that a saga can be made, or was made before by the same arguments. New steps are allowed after its last step only.
func (p *piece) checkSaga(file, pivot string) error {
	if !exists(file) {
		return p.sagaNames()
	}
	d, err := definitionOf(file)
	if err != nil {
		return err
	}
	if !strings.Contains(d.start, p.On) {
		return fmt.Errorf("--on: %s is there already and does not start on %s: change Start by hand", file, p.On)
	}
	last, appended := -1, ""
	for _, stage := range p.Stages {
		for _, s := range stage {
			made, there := d.steps[s.Name]
			switch {
			case !there && (last < 0 || last < d.stages-1 && appended == ""):
				return fmt.Errorf("--steps: %s is there already and has no step %q; the scaffold appends new steps only after the last step: insert or rename it by hand", file, s.Name)
			case !there:
				appended, last = s.Name, d.stages
			case appended != "":
				return fmt.Errorf("--steps: %s is there already and has no step %q before %q: insert or rename it by hand", file, appended, s.Name)
			case made.stage < last:
				return fmt.Errorf("--steps: %s has its steps in another order: %q comes earlier there; move it by hand", file, s.Name)
			case !slices.ContainsFunc(stepKeys[s.Kind], func(key string) bool { return made.fields[key] != "" }):
				return fmt.Errorf("--steps: %s has the step %q without the field %s that a step of the kind %q has: change it by hand", file, s.Name, strings.Join(stepKeys[s.Kind], " or "), s.Kind)
			default:
				last = made.stage
			}
		}
	}
	_, pivotIsThere := d.steps[pivot]
	switch {
	case pivot != "" && pivot != d.pivot && (pivotIsThere || d.pivot != ""):
		return fmt.Errorf("--pivot: %s is there already, and %s: change Pivot, Retriable, Compensation and Compensated of its steps by hand, so that %q is the pivot", file, d.pivotText(), pivot)
	case pivot == "" && d.pivot != "" && appended != "":
		return fmt.Errorf("--pivot: the pivot of %s is %q: repeat --pivot, because the new step %q depends on it", file, d.pivot, appended)
	}
	return nil
}

func (d *definition) pivotText() string {
	if d.pivot == "" {
		return "it has no pivot"
	}
	return fmt.Sprintf("its pivot is %q", d.pivot)
}

// sagaNames checks that sagas.go can import the package of a new saga.
func (p *piece) sagaNames() error {
	s, err := scopeOf("sagas")
	if err != nil {
		return err
	}
	refused := fmt.Errorf("NAME: %q is a name that generated files use already; choose another name", p.Name)
	switch {
	case slices.Contains(generatedImports, p.Package), slices.Contains(withoutPackage, p.Package), p.Package == p.OnPkg, s.declared[p.Package] != "":
		return refused
	}
	for _, imported := range s.imported[p.Package] {
		if imported != p.Module+"/"+filepath.ToSlash(filepath.Join("sagas", p.Package)) {
			return refused
		}
	}
	return nil
}
