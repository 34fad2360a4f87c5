package tools

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver
	"github.com/stretchr/testify/require"
)

// Every guide is followed word for word, in a copy of the template. Its blocks are
//
//	sh                  commands, each block a script
//	sh service          a command that goes on until the guide ends, or until it is started anew
//	sh services         commands that need a real PostgreSQL and Kafka: only where both are set; with a POSTGRES_DSN and an EMPTY_DSN
//	                    of the guide's own
//	output              what the commands before have printed, among other things; … stands for anything
//	output services     the same, of commands that need those
//	go|sql|… FILE       the whole of a file
//	diff                a change
//
// and what has another word, or none, is only read. A guide that begins where another one ended says so: <!-- after NAME -->.
func TestGuides(t *testing.T) {
	takesMinutes(t)
	guides, err := filepath.Glob("../../docs/guides/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, guides)
	for _, path := range guides {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) {
			if path == travel {
				t.Skip("TestTravelBooking follows it")
			}
			blocks := blocksOf(t, path)
			followed := 0
			for _, b := range blocks {
				if b.kind() != "" {
					followed++
				}
			}
			if followed == 0 {
				t.Skip("it has nothing to follow")
			}
			f := follower{mine: own(t), addr: free(t)}
			t.Cleanup(f.stop)
			for _, b := range blocks {
				f.follow(b)
			}
		})
	}
}

const travel = "../../docs/guides/travel-booking.md"

// The guide that makes a whole service is followed with the example present, and after its removal.
func TestTravelBooking(t *testing.T) {
	takesMinutes(t)
	for _, removed := range []bool{false, true} {
		t.Run(map[bool]string{false: "example present", true: "example removed"}[removed], func(t *testing.T) {
			f := follower{mine: own(t), addr: free(t)}
			t.Cleanup(f.stop)
			for _, b := range blocksOf(t, travel) {
				f.follow(b)
				if removed && b.kind() != "" {
					f.commit()
					f.must("make", "remove-example")
					f.commit()
					removed = false
				}
			}
		})
	}
}

type block struct{ guide, info, text string }

var (
	fence = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")
	after = regexp.MustCompile(`<!-- after ([a-z-]+) -->`)
	file  = regexp.MustCompile(`^\w+ (\S+[./]\S+)$`)
)

func blocksOf(t *testing.T, path string) (blocks []block) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	if before := after.FindSubmatch(text); before != nil {
		blocks = blocksOf(t, filepath.Join(filepath.Dir(path), string(before[1])+".md"))
	}
	for _, found := range fence.FindAllSubmatch(text, -1) {
		blocks = append(blocks, block{filepath.Base(path), string(found[1]), string(found[2])})
	}
	return blocks
}

// kind is what is done with a block; empty: it is only read.
func (b block) kind() string {
	switch b.info {
	case "sh", "sh service", "sh services", "output", "output services", "diff":
		return b.info
	}
	if file.MatchString(b.info) {
		return "file"
	}
	return ""
}

// follower does what a guide says.
type follower struct {
	mine
	addr    string
	service *exec.Cmd
	printed string
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, at once
	require.NoError(t, err)
	defer l.Close() // nothing was sent
	return l.Addr().String()
}

func (f *follower) follow(b block) {
	f.t.Helper()
	text := strings.ReplaceAll(b.text, "127.0.0.1:8080", f.addr)
	switch b.kind() {
	case "sh services":
		if services() {
			f.sh(b, text, append(os.Environ(), "POSTGRES_DSN="+f.database(), "EMPTY_DSN="+f.database(), "TOPIC_PREFIX=g"+uuid.NewString()[:8],
				"HTTP_ADDR="+free(f.t), "DATA_DIR="+f.t.TempDir()))
		}
	case "sh":
		f.sh(b, text, f.env())
	case "sh service":
		f.stop()
		f.start(b, text)
	case "output services":
		if services() {
			f.follow(block{b.guide, "output", b.text})
		}
	case "output":
		for line := range strings.Lines(text) {
			want := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(line)), "…", ".*")
			require.Regexp(f.t, want, f.printed, "%s: what was printed lacks a line", b.guide)
		}
	case "diff":
		apply := exec.CommandContext(f.t.Context(), "patch", "-p1", "--no-backup-if-mismatch")
		apply.Dir, apply.Stdin = f.dir, strings.NewReader(text)
		out, err := apply.CombinedOutput()
		require.NoError(f.t, err, "%s: %s\n%s", b.guide, out, text)
	case "file":
		path := filepath.Join(f.dir, file.FindStringSubmatch(b.info)[1])
		require.NoError(f.t, os.MkdirAll(filepath.Dir(path), 0o750))
		require.NoError(f.t, os.WriteFile(path, []byte(b.text), 0o600))
	}
}

// services is whether there are a real PostgreSQL and Kafka.
func services() bool { return os.Getenv("POSTGRES_DSN") != "" && os.Getenv("KAFKA_BROKERS") != "" }

// database makes an empty one in the real PostgreSQL, and removes it at the end.
func (f *follower) database() (dsn string) {
	f.t.Helper()
	server, err := url.Parse(os.Getenv("POSTGRES_DSN"))
	require.NoError(f.t, err)
	db, err := sql.Open("pgx", server.String())
	require.NoError(f.t, err)
	name := "g" + strings.ReplaceAll(uuid.NewString(), "-", "")
	_, err = db.ExecContext(f.t.Context(), "CREATE DATABASE "+name)
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		_, err := db.Exec("DROP DATABASE " + name + " WITH (FORCE)")
		require.NoError(f.t, errors.Join(err, db.Close()))
	})
	server.Path = "/" + name
	return server.String()
}

// env is a shell without settings.
func (f *follower) env() []string {
	return append(os.Environ(), "POSTGRES_DSN=", "KAFKA_BROKERS=", "HTTP_ADDR="+f.addr, "LOG_LEVEL=warn")
}

func (f *follower) sh(b block, script string, env []string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	command.Dir, command.Env = f.dir, env
	out, err := command.CombinedOutput()
	f.printed = string(out)
	require.NoError(f.t, err, "%s:\n%s\n%s", b.guide, script, out)
}

// start starts the service, and goes on when it is ready.
func (f *follower) start(b block, script string) {
	f.t.Helper()
	log, err := os.Create(filepath.Join(f.t.TempDir(), "service"))
	require.NoError(f.t, err)
	f.service = exec.Command("bash", "-c", "exec "+script) // ended by stop
	f.service.Dir, f.service.Env, f.service.Stdout, f.service.Stderr = f.dir, f.env(), log, log
	f.service.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run, and what it runs
	require.NoError(f.t, f.service.Start())
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		response, err := http.Get("http://" + f.addr + "/readyz") // local
		if err == nil {
			ready := response.StatusCode == http.StatusOK
			_ = response.Body.Close()
			if ready {
				break
			}
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			f.t.Fatalf("%s: %s is not ready: %v\n%s", b.guide, script, err, said)
		}
	}
	time.Sleep(time.Second) // the banner
	said, err := os.ReadFile(log.Name())
	require.NoError(f.t, err)
	f.printed = string(said)
}

func (f *follower) stop() {
	if f.service == nil {
		return
	}
	_ = syscall.Kill(-f.service.Process.Pid, syscall.SIGINT) // as Ctrl-C does
	_ = f.service.Wait()
	f.service = nil
}

// What a guide points to is there.
func TestRelativeLinksLeadToFiles(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	var documents []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md", "../../examples/*/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		documents = append(documents, found...)
	}
	require.NotEmpty(t, documents)
	for _, path := range documents {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, found := range link.FindAllSubmatch(fence.ReplaceAll(text, nil), -1) {
			to := string(found[1])
			if strings.Contains(to, "://") {
				continue
			}
			_, err := os.Stat(filepath.Join(filepath.Dir(path), to))
			require.NoError(t, err, "%s points to %s", path, to)
		}
	}
}
