package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEdits(t *testing.T) {
	edits, err := parse("# c\n\nfile: a.go\n|\ta,\n|\tb,\n+\tc,\n\n~one\n=two\n\nfile: b.yaml\n@  x:\n")
	require.NoError(t, err)
	require.Equal(t, []edit{{"a.go", "\ta,\n\tb,\n", "\tc,\n", false}, {"a.go", "one", "two", false}, {"b.yaml", "  x:\n", "", true}}, edits)
	for _, wrong := range []string{"|a\n", "file: a\n+b\n", "file: a\n=b\n", "file: a\n?\n"} {
		_, err := parse(wrong)
		require.ErrorContains(t, err, "cuts.txt:")
	}

	text, err := edit{file: "a.go", old: "\ta int // x\n"}.apply("type t struct {\n\ta      int // x\n\tlonger string\n}\n")
	require.NoError(t, err)
	require.Equal(t, "type t struct {\n\tlonger string\n}\n", text)
	_, err = edit{file: "a.go", old: "a"}.apply("b")
	require.ErrorContains(t, err, "not at all")
	_, err = edit{file: "a.go", old: "a"}.apply("a a")
	require.ErrorContains(t, err, "more often")

	text, err = edit{file: "a.yaml", old: "  x:\n", block: true}.apply("p:\n  x:\n    y: 1\n\n    z: 2\n  xy: 3\n")
	require.NoError(t, err)
	require.Equal(t, "p:\n  xy: 3\n", text)
	used := "  X:\n    y: 1\n  z: \"#/components/schemas/X\"\n"
	text, err = edit{file: "a.yaml", old: "  X:\n", block: true}.apply(used)
	require.NoError(t, err)
	require.Equal(t, used, text)

	text, err = tidy("package a\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nvar x = []any{, os.Args,}\n")
	require.NoError(t, err)
	require.Equal(t, "package a\n\nimport (\n\t\"os\"\n)\n\nvar x = []any{os.Args}\n", text)

	text, err = tidy("package a\n\nimport \"b\"\n\nvar (\n)\n\nvar x = T{\n\tNone:  []b.C{\n\t},\n\tNoMap: map[string]b.C{},\n\tSome: []b.C{b.D},\n}\n")
	require.NoError(t, err)
	require.Equal(t, "package a\n\nimport \"b\"\n\nvar x = T{\n\tSome: []b.C{b.D},\n}\n", text)
}

func TestDataOfTheExample(t *testing.T) {
	dir := t.TempDir()
	require.Empty(t, dataNote(dir, ""))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data", "postgres"), 0o700))
	require.Contains(t, dataNote(dir, ""), "mv data data.example\n")
	require.Empty(t, dataNote(dir, "other"))
	require.Contains(t, dataNote("/", filepath.Join(dir, "data")+"/"), "mv "+dir+"/data "+dir+"/data.example\n")
}
