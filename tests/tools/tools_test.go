// Package tools tests init, scaffold and remove-example in copies of the template, and the kit as a module that is imported.
package tools

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mine is a copy of the template, with a history of its own.
type mine struct {
	t   *testing.T
	dir string
}

func (m mine) run(name string, args ...string) (output string, err error) {
	command := exec.CommandContext(m.t.Context(), name, args...)
	command.Dir = m.dir
	text, err := command.CombinedOutput()
	return string(text), err
}

func (m mine) must(name string, args ...string) string {
	m.t.Helper()
	output, err := m.run(name, args...)
	require.NoError(m.t, err, "%s %s\n%s", name, strings.Join(args, " "), output)
	return output
}

func (m mine) commit() { m.commitAs("me") }

func (m mine) commitAs(name string) {
	m.must("git", "add", "-A")
	m.must("git", "-c", "user.name="+name, "-c", "user.email=me@example.com", "commit", "--allow-empty", "-qm", "so far")
}

// touched is which files were made or changed since the last commit.
func (m mine) touched() []string {
	var paths []string
	for line := range strings.Lines(m.must("git", "status", "--porcelain", "-uall")) {
		paths = append(paths, strings.TrimSpace(line[3:]))
	}
	return paths
}

func (m mine) write(path string, edit func(string) string) {
	path = filepath.Join(m.dir, path)
	text, err := os.ReadFile(path)
	require.NoError(m.t, err)
	changed := edit(string(text))
	require.NotEqual(m.t, string(text), changed)
	require.NoError(m.t, os.WriteFile(path, []byte(changed), 0o600))
}

// takesMinutes skips a test unless minutes are meant.
func takesMinutes(t *testing.T) {
	t.Helper()
	if os.Getenv("TEMPLATE_TESTS") == "" {
		t.Skip("takes minutes: make template-test, as CI does")
	}
}

// own copies the template as it is now, uncommitted changes included.
func own(t *testing.T) mine {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	dir := t.TempDir()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-co", "--exclude-standard")
	list.Dir = "../.."
	names, err := list.Output()
	if err != nil {
		t.Skip("needs the template under git")
	}
	for name := range strings.Lines(string(names)) {
		name = strings.TrimSpace(name)
		from, to := filepath.Join("../..", name), filepath.Join(dir, name)
		text, err := os.ReadFile(from)
		if os.IsNotExist(err) {
			continue // deleted, and not committed
		}
		require.NoError(t, err)
		info, err := os.Stat(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o750))
		require.NoError(t, os.WriteFile(to, text, info.Mode()))
	}
	m := mine{t, dir}
	m.must("git", "init", "-q")
	m.commit()
	return m
}

// scaffold makes a part. The words are separated by blanks; a list of steps has commas without blanks.
func (m mine) scaffold(made string) {
	m.t.Helper()
	m.must("go", append([]string{"run", "./tools/scaffold"}, strings.Fields(made)...)...)
}

// trip is a service's own code, which is there before the example is removed.
var trip = []string{
	"aggregate trip", "event trip Requested", "event trip Booked", "command trip BookTrip", "query TripByID", "projection trip trips --fields customer_id,at:time",
	"query TripsOfCustomer --projection trips --by customer_id", "gateway cards", "command trip ChargeTrip --gateway cards",
	"consumer flights --from partner.flights --on flight.changed", "saga book-trip --on trip.Requested --steps hold,charge,confirm --pivot charge",
	"setting MAX_WAIT --kind duration", "page trips", "route POST /v1/trips/{id} BookTrip --access customer",
}

// words of the example that nothing of a service contains after remove-example. "order" is left out: messages keep their order.
var words = regexp.MustCompile(`(?i)\b(orders|stock|payments?|shipments?|carriers?|couriers?|warehouse|fulfilment|sku)\b`)

// ownWords are files that contain such a word for another reason.
var ownWords = regexp.MustCompile(`^(kit/|go\.sum|LICENSE|CHANGELOG\.md|docs/glossary\.md|tools/(lint|ship)/)`)

func TestTheExampleIsRemoved(t *testing.T) {
	takesMinutes(t)
	m := own(t)
	m.must("make", "init", "MODULE=github.com/acme/billing", "NAME=billing")
	m.commit()
	m.must("make", "remove-example")
	m.commit()
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	m.must("go", "mod", "verify")
	m.must("go", "test", "./...")
	for path := range strings.FieldsSeq(m.must("git", "ls-files")) {
		if ownWords.MatchString(path) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.dir, path))
		require.NoError(t, err)
		require.Empty(t, words.FindAllString(string(text), 3), "%s has words of the example", path)
	}
	output, err := m.run("make", "remove-example")
	require.Error(t, err)
	require.Contains(t, output, "remove-example")
	for _, made := range trip {
		m.scaffold(made)
	}
	m.must("make", "generate")
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	m.must("go", "test", "./service", "./tests/arch")
}

// The example goes, and the service's own code stays as it is, in folders that both had files in.
func TestRemoveExampleKeepsOwnCode(t *testing.T) {
	takesMinutes(t)
	m := own(t)
	m.must("make", "init", "MODULE=github.com/acme/billing", "NAME=billing")
	m.commit()
	made := func() (added []string) {
		for line := range strings.Lines(m.must("git", "status", "--porcelain", "-uall")) {
			if path, isNew := strings.CutPrefix(strings.TrimSpace(line), "?? "); isNew {
				added = append(added, path)
			}
		}
		return added
	}
	for _, part := range trip {
		m.scaffold(part)
	}
	m.must("make", "generate")
	// What a person adds where the example has files too.
	for path, text := range map[string]string{
		"app/query/own_test.go":       "package query\n\nimport \"testing\"\n\nfunc TestOwn(*testing.T) {}\n",
		"tests/component/own_test.go": "package component\n\nimport \"testing\"\n\nfunc TestOwn(*testing.T) {}\n",
		"domain/order/own.go":         "// Package order is also the service's own.\npackage order\n", "docs/adr/0100-own.md": "# Own\n", "tests/harness/own.go": "// Package harness is the service's own.\npackage harness\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(m.dir, path), []byte(text), 0o600))
	}
	own := made()
	require.Greater(t, len(own), 25)
	before := map[string]string{}
	for _, path := range own {
		text, err := os.ReadFile(filepath.Join(m.dir, path))
		require.NoError(t, err)
		before[path] = string(text)
	}
	m.commit()
	m.must("make", "remove-example")
	for path, text := range before {
		after, err := os.ReadFile(filepath.Join(m.dir, path))
		require.NoError(t, err, "remove-example has deleted an own file")
		require.Equal(t, text, string(after), path)
	}
	m.must("go", "build", "./...")
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	m.must("go", "test", "./service", "./tests/...", "./ports")
	require.NoDirExists(t, filepath.Join(m.dir, "domain/payment"))
	for path, kept := range map[string]string{
		"service/service.go": "Trips: trips.Store(k), Cards: gateway.NewCards(k.GatewayURL(\"cards\"))", "app/command/command.go": `cqrs.Handle("BookTrip"`, "sagas/sagas.go": "saga.New(booktrip.Definition)",
		"adapters/views/views.go": "projection.Trips(Trips{})", "ports/openapi.yaml": "/v1/trips/{id}:", ".env.example": "CARDS_URL=", "service/names_test.go": `"trip.booked"`,
		"app/consumer/consumer.go": "flights{d.Commands}.consumer()", "ports/pages/pages.go": "p.trips()",
	} {
		text, err := os.ReadFile(filepath.Join(m.dir, path))
		require.NoError(t, err)
		require.Contains(t, strings.Join(strings.Fields(string(text)), " "), kept, path)
	}
	for _, part := range trip { // once more: all of it is there
		m.scaffold(part)
	}
	m.must("make", "generate")
	require.NotContains(t, strings.Join(m.touched(), " "), "domain/trip", "the scaffold has changed what is there")
}

// remove-example refuses what git could not restore, and a text that is not as it expects, and then has changed nothing.
func TestRemoveExampleChecksFirst(t *testing.T) {
	m := own(t)
	m.write("main.go", func(s string) string { return s + "\n// Not committed.\n" })
	output, err := m.run("go", "run", "./tools/removeexample")
	require.Error(t, err)
	require.Contains(t, output, "there are changes that are not committed; commit or stash them first")
	require.Contains(t, output, "main.go")
	m.commit()

	m.write("sagas/sagas.go", func(s string) string {
		return strings.Replace(s, "saga.New(fulfilment.V1)", "saga.New(fulfilment.First)", 1)
	})
	m.write("ports/openapi.yaml", func(s string) string { return strings.Replace(s, "  /v1/orders:\n", "  /v2/orders:\n", 1) })
	require.NoError(t, os.Remove(filepath.Join(m.dir, "domain/money/money.go")))
	m.commit()
	output, err = m.run("go", "run", "./tools/removeexample")
	require.Error(t, err)
	require.Contains(t, output, "nothing was changed")
	require.Contains(t, output, "sagas/sagas.go: this text must be there once, and is there not at all:\n\t\tsaga.New(fulfilment.Definition),\n\t\tsaga.New(fulfilment.V1),")
	require.Contains(t, output, "ports/openapi.yaml: this text must be there once, and is there not at all:\n  /v1/orders:")
	require.Contains(t, output, "domain/money/money.go: the file is missing")
	require.Empty(t, m.touched())
}

// ofTheExample are the folders that hold nothing but the example and proofs of the template. A new file in them belongs into files.txt.
var ofTheExample = []string{
	"domain", "sagas/fulfilment", "sagas/orderreturn", "adapters/warehouse", "adapters/warehousepb", "service/demo", "tests/bench", "tests/browser", "tests/chaos", "tests/component",
	"tests/debezium", "tests/harness", "tests/limits", "tests/tools", "examples", "tools/node", "tools/removeexample", "docs/adr", "docs/pictures",
}

func TestListsOfTheExampleAreCurrent(t *testing.T) {
	m := own(t)
	m.must("go", "run", "./tools/removeexample", "-check")
	listed, err := os.ReadFile("../../tools/removeexample/files.txt")
	require.NoError(t, err)
	all := strings.Fields(strings.ReplaceAll(string(listed), "?", ""))
	for path := range strings.FieldsSeq(m.must("git", append([]string{"ls-files"}, ofTheExample...)...)) {
		require.Contains(t, all, path, "tools/removeexample/files.txt lacks it")
	}
}

// kept are the names of the kit and the address of the template, which a renamed service keeps.
var kept = regexp.MustCompile(`github\.com/millrace/millrace/kit|git clone https://github\.com/millrace/millrace|millrace_|millrace rebuild|millrace\.test_clock_ahead|db_name=\\?"millrace\\?"`)

func (m mine) requireNoTrace() {
	m.t.Helper()
	for path := range strings.FieldsSeq(m.must("git", "ls-files", "--", ":!kit", ":!LICENSE")) {
		require.NotContains(m.t, strings.ToLower(path), "millrace")
		text, err := os.ReadFile(filepath.Join(m.dir, path))
		require.NoError(m.t, err)
		require.NotContains(m.t, strings.ToLower(kept.ReplaceAllString(string(text), "")), "millrace", path)
	}
}

func TestInitRenamesTheTemplate(t *testing.T) {
	takesMinutes(t)
	template := own(t)
	m := mine{t, filepath.Join(t.TempDir(), "billing")}
	template.must("git", "clone", "-q", ".", m.dir)
	for _, wrong := range [][]string{{"github.com/acme/billing", "Billing"}, {"github.com/acme/billing", ""}, {"no module", "billing"}} {
		output, err := m.run("go", "run", "./tools/init", "-module", wrong[0], "-name", wrong[1])
		require.Error(t, err)
		require.Regexp(t, "init: (MODULE|NAME): ", output)
	}
	require.Empty(t, m.touched())
	m.must("make", "init", "MODULE=github.com/acme/billing", "NAME=billing")
	for _, path := range m.touched() {
		require.False(t, strings.HasPrefix(path, "kit/"), "init has changed %s", path)
	}
	m.commit()
	m.requireNoTrace()
	m.must("go", "build", "./...")
	m.must("go", "vet", "./...")
	m.must("go", "test", "./domain/...", "./service", "./ports/...", "./tests/arch", "./tools/...")
	require.Empty(t, m.must("gofmt", "-l", "."))

	for _, made := range []struct {
		args  string
		files int // tests not counted
	}{
		{"aggregate invoice", 4}, {"event invoice Issued", 1}, {"event invoice Paid", 1}, {"command invoice IssueInvoice", 2}, {"command invoice AddURLToInvoice", 2},
		{"query InvoiceByID", 2}, {"projection invoice invoices", 4}, {"consumer shipping --from carrier.parcels --on parcel.left,parcel.lost", 3},
		{"saga dunning --on invoice.Issued --steps remind,suspend", 2}, {"saga dunning --on invoice.Issued --steps remind,suspend,close", 1},
		{"saga pay-back --on invoice.Paid --steps hold+each:print,if:insure,until:ask,delay:wait,signal:agree,event:arrive,saga:lodge,pay,tell --pivot pay", 2}, {"aggregate policy --plural policies", 4}, {"aggregate due-date", 4},
		{"setting GRACE --kind duration", 2}, {"gateway cards", 3}, {"page invoices", 3},
		{"event invoice Reminded --fields at:time,letters:int", 1}, {"command invoice RemindInvoice --decision Remind --fields at:time,letters:int", 3},
		{"command invoice ChargeInvoice --gateway cards --decision Charge --fields amount:int", 6}, {"command invoice RefundInvoice --gateway cards --compensates ChargeInvoice", 4},
		{"projection invoice open-invoices --fields customer_id,paid:bool", 4}, {"query InvoicesOfCustomer --projection open-invoices --by customer_id", 5},
		{"query OpenInvoice --projection open-invoices --by invoice_id", 4}, {"route POST /v1/invoices RemindInvoice --access customer", 2},
		{"route POST /v1/invoices/{invoice_id} IssueInvoice --access customer", 2}, {"route GET /v1/invoices/{id} InvoiceByID", 2},
	} {
		args := append([]string{"run", "./tools/scaffold"}, strings.Fields(made.args)...)
		m.must("go", args...)
		files := 0
		for _, path := range m.touched() {
			if !strings.HasSuffix(path, "_test.go") {
				files++
			}
		}
		require.Equal(t, made.files, files, "%s: %s", made.args, m.touched())
		m.commit()
		m.must("go", args...)
		require.Empty(t, m.touched(), "%s once more", made.args)
	}
	require.FileExists(t, filepath.Join(m.dir, "app/command/add_url_to_invoice.go"))
	m.must("go", "generate", "./ports")
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	payBack, err := os.ReadFile(filepath.Join(m.dir, "sagas/payback/payback.go"))
	require.NoError(t, err)
	require.Equal(t, []int{3, 1, 1}, []int{strings.Count(string(payBack), "Compensation:"), strings.Count(string(payBack), "Pivot:"), strings.Count(string(payBack), "Retriable:")})
	require.Contains(t, string(payBack), "Steps: []saga.Step[Data]{\n\t\t{Parallel: []saga.Step[Data]{\n")
	for pkg, sentence := range map[string]string{
		"./domain/invoice": "test each decision of invoice", "./sagas/dunning": "fill in the commands and events of remind, suspend",
		"./service": "is not current: make generate", "./app/command": "call the decision of the invoice that IssueInvoice stands for",
		"./app/query": "read the result of InvoiceByID", "./app/consumer": "send the command that follows from parcel.left of carrier",
		"./adapters/views": "handle the events of invoice that change a row", "./ports/pages": "load the rows of the page invoices",
	} {
		output, err := m.run("go", "test", pkg)
		require.Error(t, err)
		require.Contains(t, output, sentence)
	}
	for args, complaint := range map[string]string{
		"aggregate Invoice": `AGGREGATE: "Invoice" must be like`, "aggregate type": "is a word of the language Go", "event bill Issued": "there is no aggregate bill yet",
		"saga x --on y --steps z": `--on: "y" must be an event`, "saga x --on invoice.Lost --steps z": "there is no event invoice.Lost yet",
		"saga x --on invoice.Paid --steps z --pivot y": `--pivot: "y" is none of --steps`, "saga x --on invoice.Paid": "--steps: a saga needs at least one step",
		"consumer x --from y --on z": `--from: "y" must be`, "consumer x --from y.z --on z": `--on: "z" must be`, "route POST /v1/x NoSuch": "there is no command NoSuch yet",
		"route FETCH /v1/x IssueInvoice": `METHOD: "FETCH" is none of`, "route POST /v1/x IssueInvoice --access all": `--access: "all" is none of`,
		"setting lower": `NAME: "lower" must be like`, "thing": `there is no part "thing"`, "command invoice": "command needs 2 words, has 1; usage: command AGGREGATE NAME",
		"command invoice X --gateway none": "there is no gateway none yet", "event invoice X --fields a:colour": `the type "colour" of a is none of bool, int, text, time`,
		"command invoice X --compensates ChargeInvoice": "so it needs --gateway", "command invoice X --gateway cards --compensates Y": "--compensates: cards has no call Y yet",
		"command invoice X --gateway cards --fields amount": "the field Amount of cardsRequest has the type int64, not string",
		"query X --projection invoices --by colour":         `--by: "colour" is no column of invoices, which has invoice_id`, "query X --projection none --by id": "there is no projection none yet",
		"page trips --colour red": "flag provided but not defined", "": "projection AGGREGATE NAME",
	} {
		output, err := m.run("go", append([]string{"run", "./tools/scaffold"}, strings.Fields(args)...)...)
		require.Error(t, err, args)
		require.Contains(t, output, complaint)
	}

	parts := exec.CommandContext(t.Context(), "go", "run", "./tools/scaffold", "-")
	parts.Dir, parts.Stdin = m.dir, strings.NewReader("# two parts\n\nevent invoice Sent --fields \"by, copies:int\"  # by whom\nevent nothing Sent\n")
	said, err := parts.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "line 4: there is no aggregate nothing yet")
	events, err := os.ReadFile(filepath.Join(m.dir, "domain/invoice/events.go"))
	require.NoError(t, err)
	require.Contains(t, string(events), "type Sent struct {\n\tInvoiceID string `json:\"invoice_id\"`\n\tBy        string `json:\"by\"`\n\tCopies    int64  `json:\"copies\"`\n}")
	m.commit()

	m.must("make", "init", "MODULE=github.com/acme/invoicing", "NAME=invoicing") // once more
	m.commit()
	m.must("go", "build", "./...")
	m.must("go", "test", "./tools/...", "./tests/arch")
}

// The clone address in the guides stays the template's, and the commands that init prints run as they are.
func TestInitSaysWhatComesNext(t *testing.T) {
	m := own(t)
	tool := filepath.Join(t.TempDir(), "init")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", tool, "../../tools/init").CombinedOutput()
	require.NoError(t, err, "%s", out)
	said := m.must(tool, "-module", "github.com/acme/clinic", "-name", "clinic")
	require.Regexp(t, `(?s)next: go test .*then: git add -A && git commit -m 'Make it clinic'.*then: make remove-example`, said)
	guide, err := os.ReadFile(filepath.Join(m.dir, "docs/guides/travel-booking.md"))
	require.NoError(t, err)
	require.Contains(t, string(guide), "git clone https://github.com/millrace/millrace travel && cd travel\n")
}

// The commands of README.md run in their order, after the example has run.
func TestReadmeMakesItYours(t *testing.T) {
	takesMinutes(t)
	m := own(t)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "## Make it yours\n\n")
	require.True(t, found)
	commands, _, _ := strings.Cut(section, "\n\n")
	require.NoError(t, os.MkdirAll(filepath.Join(m.dir, "data/postgres"), 0o700)) // as of go run .
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "data/postgres/PG_VERSION"), nil, 0o600))
	m.must("git", "config", "user.name", "me")
	m.must("git", "config", "user.email", "me@example.com")
	require.Contains(t, m.must("bash", "-euo", "pipefail", "-c", commands), "mv data data.example")
	require.FileExists(t, filepath.Join(m.dir, "domain/invoice/invoice.go"))
	require.NoDirExists(t, filepath.Join(m.dir, "domain/payment"))
	m.must("mv", "data", "data.example")
	for _, path := range m.touched() {
		require.NotContains(t, path, "data.example")
	}
}

// gonew copies the root module without the kit, because that is a module of its own. The copy imports the kit, and init makes it a service.
func TestGonew(t *testing.T) {
	takesMinutes(t)
	template := own(t)
	const module, version = "github.com/millrace/millrace", "v0.0.1"
	p := newProxy(t)
	p.add(module, version, template, ".", ":!kit")
	kitVersion := p.add(kitModule, "", template, "kit")
	m := mine{t, filepath.Join(t.TempDir(), "billing")}
	gonew := exec.CommandContext(t.Context(), "go", "run", "golang.org/x/tools/cmd/gonew@v0.52.0", module+"@"+version, "example.com/billing", m.dir)
	// A cache of its own: the version is the same whatever the content.
	gonew.Env = append(os.Environ(), "GOFLAGS=-mod=mod -modcacherw", "GOMODCACHE="+filepath.Join(t.TempDir(), "cache"))
	output, err := gonew.CombinedOutput()
	require.NoError(t, err, "%s", output)
	m.must("git", "init", "-q")
	m.commit()
	m.must("go", "mod", "edit", "-dropreplace="+kitModule, "-require="+kitModule+"@"+kitVersion)
	m.must("make", "init", "MODULE=example.com/billing", "NAME=billing")
	m.must("go", "mod", "tidy")
	m.commit()
	m.requireNoTrace()
	m.must("make", "generate") // with the tools
	m.must("go", "vet", "./...")
	m.must("go", "test", "./service", "./tests/arch")
}
