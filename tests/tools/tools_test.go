// Package tools makes the template somebody's own, in a copy: it is renamed, and gets an aggregate, an event, a command, a query and a saga.
package tools

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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

func (m mine) apply(patch string) {
	command := exec.CommandContext(m.t.Context(), "git", "apply")
	command.Dir, command.Stdin = m.dir, strings.NewReader(patch)
	output, err := command.CombinedOutput()
	require.NoError(m.t, err, "%s", output)
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

// Without the example there is a service that builds, starts and passes, and gets what it is about by the scaffold.
func TestTheExampleIsRemoved(t *testing.T) {
	takesMinutes(t)
	m := own(t)
	m.must("make", "init", "MODULE=github.com/acme/billing", "NAME=billing")
	m.must("make", "remove-example")
	m.commit()
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	m.must("go", "mod", "verify")
	m.must("go", "test", "./domain/...", "./app/...", "./sagas/...", "./service", "./ports/...", "./tests/...")
	output, err := m.run("make", "remove-example")
	require.Error(t, err)
	require.Contains(t, output, "remove-example")
	for _, made := range []string{
		"aggregate invoice", "event invoice Issued", "event invoice Paid", "command invoice IssueInvoice", "query InvoiceByID", "projection invoice invoices",
		"consumer payments --from bank.transfers --on transfer.booked", "saga dunning --on invoice.Issued --steps remind",
	} {
		m.must("go", append([]string{"run", "./tools/scaffold"}, strings.Fields(made)...)...)
	}
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	m.must("make", "generate")
	m.must("go", "test", "./service", "./tests/arch")
}

func TestATemplateBecomesOnesOwn(t *testing.T) {
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
	m.commit()
	require.NoError(t, filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == ".git":
			return filepath.SkipDir
		}
		require.NotContains(t, strings.ToLower(d.Name()), "millrace")
		if d.Type().IsRegular() && d.Name() != "LICENSE" {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NotContains(t, strings.ToLower(string(text)), "millrace", path)
		}
		return nil
	}))
	m.must("go", "build", "./...")
	m.must("go", "vet", "./...")
	m.must("go", "test", "./domain/...", "./service", "./ports/...", "./sagas/saga", "./tests/arch")
	require.Empty(t, m.must("gofmt", "-l", "."))

	template.write("adapters/breaker/breaker.go", func(text string) string {
		return strings.Replace(text, "package breaker\n", "package breaker\n\n// What Millrace has learned since; see github.com/millrace/millrace/app.\n", 1)
	})
	template.write("domain/order/order.go", func(text string) string { return text + "\n// The example has changed too.\n" })
	template.commit()
	patch := m.must("make", "-s", "kit-diff", "UPSTREAM="+template.dir)
	require.Contains(t, patch, "+// What Billing has learned since; see github.com/acme/billing/app.")
	require.NotContains(t, patch, "The example has changed")
	m.apply(patch)
	require.Equal(t, []string{"adapters/breaker/breaker.go"}, m.touched())
	m.commit()

	for _, made := range []struct {
		args  string
		files int // tests not counted
	}{
		{"aggregate invoice", 4}, {"event invoice Issued", 1}, {"event invoice Paid", 1}, {"command invoice IssueInvoice", 2},
		{"query InvoiceByID", 2}, {"projection invoice invoices", 4}, {"consumer shipping --from carrier.parcels --on parcel.left,parcel.lost", 3}, {"saga dunning --on invoice.Issued --steps remind,suspend", 2}, {"saga dunning --on invoice.Issued --steps remind,suspend,close", 1},
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
	m.must("go", "vet", "./...")
	require.Empty(t, m.must("gofmt", "-l", "."))
	for pkg, sentence := range map[string]string{
		"./domain/invoice": "say what comes of each decision of invoice", "./sagas/dunning": "fill in the commands and events of remind, suspend",
		"./service": "is not current: make generate", "./app/command": "say which decision of the invoice IssueInvoice asks for",
		"./app/query": "say where the answer to InvoiceByID is read", "./app/reaction": "say which command of ours follows from carrier's parcel.left",
		"./adapters/postgres/readmodel": "say which events of invoice change a row",
	} {
		output, err := m.run("go", "test", pkg)
		require.Error(t, err)
		require.Contains(t, output, sentence)
	}
	for args, complaint := range map[string]string{
		"aggregate Invoice": "NAME: \"Invoice\" must be like", "event bill Issued": "there is no aggregate bill yet", "saga x --on y --steps z": "--on: \"y\" must be an event",
		"consumer x --from y --on z": "--from: \"y\" must be", "consumer x --from y.z --on z": "--on: \"z\" must be",
		"thing": "there is nothing called \"thing\" to make", "command invoice": "NAME is missing",
	} {
		output, err := m.run("go", append([]string{"run", "./tools/scaffold"}, strings.Fields(args)...)...)
		require.Error(t, err)
		require.Contains(t, output, complaint)
	}
}

// What gonew makes of the template is the template, and init makes it one's own.
func TestGonew(t *testing.T) {
	takesMinutes(t)
	template := own(t)
	const module, version = "github.com/millrace/millrace", "v0.0.1"
	proxy := filepath.Join(t.TempDir(), module, "@v")
	require.NoError(t, os.MkdirAll(proxy, 0o750))
	for name, text := range map[string]string{"list": version + "\n", version + ".info": `{"Version":"` + version + `"}`} {
		require.NoError(t, os.WriteFile(filepath.Join(proxy, name), []byte(text), 0o600))
	}
	mod, err := os.ReadFile(filepath.Join(template.dir, "go.mod"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(proxy, version+".mod"), mod, 0o600))
	template.must("git", "archive", "--format=zip", "--prefix="+module+"@"+version+"/", "-o", filepath.Join(proxy, version+".zip"), "HEAD")

	root := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(proxy))))
	m := mine{t, filepath.Join(t.TempDir(), "billing")}
	gonew := exec.CommandContext(t.Context(), "go", "run", "golang.org/x/tools/cmd/gonew@v0.52.0", module+"@"+version, "example.com/billing", m.dir)
	proxies, err := exec.CommandContext(t.Context(), "go", "env", "GOPROXY").Output()
	require.NoError(t, err)
	gonew.Env = append(os.Environ(), "GOPROXY=file://"+root+","+strings.TrimSpace(string(proxies)), "GONOSUMDB="+module, "GOFLAGS=-mod=mod -modcacherw", "GOMODCACHE="+filepath.Join(t.TempDir(), "cache"))
	output, err := gonew.CombinedOutput()
	require.NoError(t, err, "%s", output)
	m.must("git", "init", "-q")
	m.commit()
	m.must("make", "init", "MODULE=example.com/billing", "NAME=billing")
	trace, err := m.run("git", "grep", "-il", "millrace", "--", ":!LICENSE")
	require.Error(t, err, "there is a trace of the old name in %s", trace)
	m.must("make", "generate") // with the tools
	m.must("go", "vet", "./...")
	m.must("go", "test", "./service", "./tests/arch")
}
