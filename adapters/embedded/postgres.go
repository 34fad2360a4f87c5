// Package embedded runs a real PostgreSQL and a Kafka broker in and beside this process, with their data in a directory, so
// that `go run .` needs nothing else.
package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// version is the PostgreSQL that is downloaded, once for all data directories.
const version = embeddedpostgres.V18

// Postgres is a running server.
type Postgres struct {
	DSN   string
	Fresh bool // the data directory was made just now
	stop  func() error
}

// StartPostgres starts a server on the data below dir, as another user than root if need be. A server of an earlier run that
// was left behind is stopped first. Say is told what takes long.
func StartPostgres(ctx context.Context, dir string, say func(string)) (*Postgres, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "postgres")
	cache, err := cacheDir(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{dir, data, cache} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // the unprivileged user must get through
			return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
		}
	}
	cluster := filepath.Join(data, "cluster")
	_, statErr := os.Stat(filepath.Join(cluster, "PG_VERSION"))
	fresh := errors.Is(statErr, fs.ErrNotExist)
	if err := stopLeftover(cluster); err != nil {
		return nil, err
	}
	wanted := version
	binaries, source := "", repository
	if !downloaded(cache) {
		say("downloading PostgreSQL " + string(version) + " (15 MB, once)")
		address, stop, err := watched(ctx, repository, say)
		if err != nil {
			return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
		}
		defer stop()
		source = address
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	var log bytes.Buffer
	start := func() (*embeddedpostgres.EmbeddedPostgres, error) {
		// The library makes a directory of another major version anew. We don't: it may be all that somebody has.
		if err := sameMajor(cluster, wanted); err != nil {
			return nil, err
		}
		config := embeddedpostgres.DefaultConfig().Version(wanted).Port(port).DataPath(cluster).CachePath(cache).BinaryRepositoryURL(source).
			RuntimePath(filepath.Join(data, "runtime")).Username("millrace").Password("millrace").Database("millrace").
			StartTimeout(30 * time.Second).Logger(&log).Encoding("UTF8").Locale("C").
			StartParameters(map[string]string{"max_connections": "200", "listen_addresses": "127.0.0.1", "unix_socket_directories": ""})
		if binaries != "" {
			config = config.BinariesPath(binaries)
		}
		pg := embeddedpostgres.NewDatabase(config)
		return pg, unprivileged(pg.Start, data, cache)
	}
	pg, err := start()
	if err != nil && !downloaded(cache) {
		if binaries, wanted = installed(ctx); binaries == "" {
			return nil, fmt.Errorf("embedded PostgreSQL: %w; no PostgreSQL is installed either: allow the download, install PostgreSQL, or set POSTGRES_DSN", err)
		}
		say(fmt.Sprintf("cannot download PostgreSQL (%v); using the installed %s in %s", err, wanted, binaries))
		pg, err = start()
	}
	if err != nil {
		return nil, fmt.Errorf("embedded PostgreSQL in %s: %w\n%s", dir, err, tail(log.String(), 2000))
	}
	return &Postgres{DSN: dsnOf(strconv.Itoa(int(port))), Fresh: fresh, stop: func() error { return unprivileged(pg.Stop) }}, ctx.Err()
}

// Running returns the DSN of the server that runs on the data below dir, for a process beside the one that started it; empty if there is
// none.
func Running(dir string) string {
	cluster := filepath.Join(dir, "postgres", "cluster")
	content, err := os.ReadFile(filepath.Join(cluster, "postmaster.pid")) //nolint:gosec // below the data directory
	lines := strings.Split(string(content), "\n")
	if err != nil || len(lines) < 4 {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || !isServer(pid, cluster) {
		return ""
	}
	return dsnOf(strings.TrimSpace(lines[3]))
}

func dsnOf(port string) string {
	return "postgres://millrace:millrace@127.0.0.1:" + port + "/millrace?sslmode=disable"
}

// Stop stops the server cleanly.
func (p *Postgres) Stop() error { return p.stop() }

func cacheDir(dir string) (string, error) {
	if os.Geteuid() == 0 {
		// Root's own cache is closed to the unprivileged user. This one is shared by all data directories.
		return filepath.Join(os.TempDir(), "millrace-postgres"), nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(dir, "cache"), nil //nolint:nilerr // a user without a home keeps it with the data
	}
	return filepath.Join(base, "millrace-postgres"), nil
}

func downloaded(cache string) bool {
	found, err := filepath.Glob(filepath.Join(cache, "*.txz"))
	return err == nil && len(found) > 0
}

// installed finds the newest PostgreSQL on this machine: the directory that has bin/postgres, and its version.
func installed(ctx context.Context) (dir string, version embeddedpostgres.PostgresVersion) {
	var candidates []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin/initdb", "/opt/homebrew/opt/postgresql*/bin/initdb", "/usr/local/opt/postgresql*/bin/initdb",
	} {
		found, _ := filepath.Glob(pattern) // constant patterns are good
		slices.Reverse(found)
		candidates = append(candidates, found...)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		output, err := exec.CommandContext(ctx, path, "--version").Output() //nolint:gosec // found on this machine's own paths
		if fields := strings.Fields(string(output)); err == nil && len(fields) >= 3 {
			return filepath.Dir(filepath.Dir(path)), embeddedpostgres.PostgresVersion(fields[2])
		}
	}
	return "", ""
}

func sameMajor(cluster string, wanted embeddedpostgres.PostgresVersion) error {
	content, err := os.ReadFile(filepath.Join(cluster, "PG_VERSION")) //nolint:gosec // below the data directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	major, _, _ := strings.Cut(string(wanted), ".")
	if have := strings.TrimSpace(string(content)); err == nil && have != major {
		err = fmt.Errorf("the data in %s is of PostgreSQL %s, but PostgreSQL %s is here: upgrade it with pg_upgrade, or set DATA_DIR to another directory", cluster, have, wanted)
	}
	return err
}

// nobody is who runs the server where we are root, whom PostgreSQL refuses. No account is needed for it.
const nobody = 65534

// unprivileged runs start as nobody if we are root. Only one thread changes its identity, by raw system calls, and it ends
// with its goroutine, because the goroutine never unlocks it; the server, which is forked there, inherits the identity.
func unprivileged(start func() error, dirs ...string) error {
	if os.Geteuid() != 0 {
		return start()
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, nobody, nobody) //nolint:gosec // only root and nobody can write there, and links are not followed
		})
		if err != nil {
			return fmt.Errorf("hand %s to the user that runs PostgreSQL: %w", dir, err)
		}
		if err := reachable(dir); err != nil && !mayPass() {
			return err
		}
	}
	// The library writes a temporary file; root's directory for those may be closed to nobody.
	if len(dirs) > 0 {
		before, had := os.LookupEnv("TMPDIR")
		_ = os.Setenv("TMPDIR", dirs[0]) // fails on odd names only
		defer func() {
			if had {
				_ = os.Setenv("TMPDIR", before)
			} else {
				_ = os.Unsetenv("TMPDIR")
			}
		}()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- asNobody(start)
	}()
	return <-done
}

// reachable says which directory above dir keeps other users out.
func reachable(dir string) error {
	for parent := filepath.Dir(dir); parent != "/" && parent != "."; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("PostgreSQL does not run as root, and %s is closed to other users: set DATA_DIR to a directory that others may enter, such as /var/tmp/millrace", parent)
		}
	}
	return nil
}

// stopLeftover stops a server that still holds the data directory because its parent was killed.
func stopLeftover(cluster string) error {
	pidFile := filepath.Join(cluster, "postmaster.pid")
	content, err := os.ReadFile(pidFile) //nolint:gosec // below the data directory
	if err != nil {
		return nil //nolint:nilerr // no server
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid < 2 || !isServer(pid, cluster) {
		return nil //nolint:nilerr // PostgreSQL itself removes a file of a server that is gone
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} { // fast, then immediate shutdown
		_ = syscall.Kill(pid, signal) // gone already is what we want
		for range 100 {
			if !isServer(pid, cluster) { // one that only waits for its parent to notice does not count
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return fmt.Errorf("the PostgreSQL server %d still holds %s and does not stop", pid, cluster)
}

// isServer tells whether a process is the server of this cluster, and not a stranger that got its number.
func isServer(pid int, cluster string) bool {
	output, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec,noctx // a number; ends at once
	if err != nil {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // where ps is not installed
		return err == nil && strings.Contains(string(raw), cluster)
	}
	return strings.Contains(string(output), cluster)
}

func freePort() (uint32, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // local, at once
	if err != nil {
		return 0, err
	}
	defer l.Close()                                  //nolint:errcheck // nothing was sent
	return uint32(l.Addr().(*net.TCPAddr).Port), nil //nolint:gosec // a port
}

func tail(s string, n int) string {
	if len(s) > n {
		s = s[len(s)-n:]
	}
	return s
}
