package tools

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const kitModule = "github.com/millrace/millrace/kit"

// proxy is a module proxy in files.
type proxy struct {
	t    *testing.T
	root string
}

// add serves files below a directory of a copy of the template as a version of a module. An empty version stands for one that follows from the
// content: the module cache of the machine keeps a version for ever, so another content must be another version.
func (p proxy) add(module, version string, m mine, dir string, leftOut ...string) string {
	p.t.Helper()
	var paths []string
	texts, sum := map[string][]byte{}, sha256.New()
	for path := range strings.FieldsSeq(m.must("git", append([]string{"ls-files", "--", filepath.Join(".", dir)}, leftOut...)...)) {
		text, err := os.ReadFile(filepath.Join(m.dir, path))
		require.NoError(p.t, err)
		path = strings.TrimPrefix(path, dir+"/")
		paths, texts[path] = append(paths, path), text
		sum.Write(append([]byte(path+"\x00"), text...))
	}
	if version == "" {
		version = "v0.1.1-0.20060102150405-" + hex.EncodeToString(sum.Sum(nil))[:12]
	}
	at := filepath.Join(p.root, module, "@v")
	require.NoError(p.t, os.MkdirAll(at, 0o750))
	for name, text := range map[string]string{"list": version + "\n", version + ".info": `{"Version":"` + version + `","Time":"2006-01-02T15:04:05Z"}`, version + ".mod": string(texts["go.mod"])} {
		require.NoError(p.t, os.WriteFile(filepath.Join(at, name), []byte(text), 0o600))
	}
	file, err := os.Create(filepath.Join(at, version+".zip"))
	require.NoError(p.t, err)
	archive := zip.NewWriter(file)
	for _, path := range paths {
		entry, err := archive.Create(module + "@" + version + "/" + path)
		require.NoError(p.t, err)
		_, err = entry.Write(texts[path])
		require.NoError(p.t, err)
	}
	require.NoError(p.t, archive.Close())
	require.NoError(p.t, file.Close())
	return version
}

// newProxy makes a proxy, and has every command of the test ask it before others.
func newProxy(t *testing.T) proxy {
	t.Helper()
	others, err := exec.CommandContext(t.Context(), "go", "env", "GOPROXY").Output()
	require.NoError(t, err)
	p := proxy{t, t.TempDir()}
	t.Setenv("GOPROXY", "file://"+p.root+","+strings.TrimSpace(string(others)))
	t.Setenv("GONOSUMDB", "github.com/millrace/millrace,"+kitModule)
	t.Setenv("GOFLAGS", "-mod=mod")
	return p
}

// requireKit does what go get does, but for that it needs no other version of the kit.
func (m mine) requireKit(version string) {
	m.t.Helper()
	m.must("go", "mod", "edit", "-dropreplace="+kitModule, "-require="+kitModule+"@"+version)
	m.must("go", "mod", "tidy")
}

// importKit makes a service import the kit, as its README says.
func (m mine) importKit(version string) {
	m.t.Helper()
	require.NoError(m.t, os.RemoveAll(filepath.Join(m.dir, "kit")))
	m.requireKit(version)
	m.must("go", "build", "./...")
	m.must("go", "vet", "./...")
	m.must("go", "test", "./service", "./tests/arch")
	require.Equal(m.t, version, strings.TrimSpace(m.must("go", "list", "-m", "-f", "{{.Version}}", kitModule)))
}

// The kit is a module that a service can import instead of owning it: the example, and a service that is made from the template.
func TestKitIsImported(t *testing.T) {
	takesMinutes(t)
	m := own(t)
	version := newProxy(t).add(kitModule, "", m, "kit")
	service := mine{t, filepath.Join(t.TempDir(), "billing")}
	m.must("git", "clone", "-q", ".", service.dir)
	m.importKit(version)

	service.must("make", "init", "MODULE=github.com/acme/billing", "NAME=billing")
	service.commit()
	service.must("make", "remove-example")
	for _, made := range trip {
		service.scaffold(made)
	}
	service.must("make", "generate")
	service.importKit(version)
}
