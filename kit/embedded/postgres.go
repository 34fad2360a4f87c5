//go:build !noembedded

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// version is the version of PostgreSQL that is downloaded. It is downloaded once for all data directories.
const version = embeddedpostgres.V18

// Postgres is a running PostgreSQL server. StartPostgres starts it.
type Postgres struct {
	DSN   string
	Fresh bool // the data directory is new
	stop  func() error
}

// StartPostgres starts a server with its data below dir, and blocks until it accepts connections. If this process runs as root, the server runs as another
// user. If an earlier run has left a server behind, StartPostgres stops it first. It downloads PostgreSQL if it is not cached, and uses an installed version
// if the download fails. It removes the PG* variables from the environment of this process. Logf is called before slow steps. If there is an error, no
// server is running.
func StartPostgres(ctx context.Context, dir string, logf func(string)) (_ *Postgres, err error) {
	ignoreLibpqVariables()
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "postgres")
	cluster := filepath.Join(data, "cluster")
	cache := cacheDir(dir)
	for _, d := range []string{dir, data, cache} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // the unprivileged user must get through
			return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
		}
	}
	owner, err := ownerOf(data)
	if err != nil {
		return nil, err
	}
	_, statErr := os.Stat(filepath.Join(cluster, "PG_VERSION"))
	fresh := errors.Is(statErr, fs.ErrNotExist)
	if err := stopLeftover(cluster); err != nil {
		return nil, err
	}
	work, err := workDir(data, owner)
	if err != nil {
		return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(work) // if this fails, the next start removes it
		}
	}()
	if err := copyArchives(cache, work); err != nil {
		return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
	}
	wanted := version
	binaries, source := "", repository
	unpacked := filepath.Join(cache, "unpacked-"+string(version))
	if copyTree(unpacked, filepath.Join(work, "binaries")) == nil {
		binaries = filepath.Join(work, "binaries") // this saves the 2 s that unpacking takes
	}
	if binaries == "" && !downloaded(work) {
		logf("downloading PostgreSQL " + string(version) + " (15 MB, once)")
		address, stop, err := watched(ctx, repository, logf)
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
		// The library would replace, and so delete, the data of another major version. sameMajor returns an error instead.
		if err := sameMajor(cluster, wanted); err != nil {
			return nil, err
		}
		config := embeddedpostgres.DefaultConfig().Version(wanted).Port(port).DataPath(cluster).CachePath(work).BinaryRepositoryURL(source).
			RuntimePath(filepath.Join(data, "runtime")).Username("millrace").Password("millrace").Database("millrace").
			StartTimeout(30 * time.Second).Logger(&log).Encoding("UTF8").Locale("C").
			StartParameters(map[string]string{"max_connections": "200", "listen_addresses": "127.0.0.1", "unix_socket_directories": ""})
		if binaries != "" {
			config = config.BinariesPath(binaries)
		}
		pg := embeddedpostgres.NewDatabase(config)
		return pg, owner.run(pg.Start, data, work)
	}
	pg, err := start()
	if err != nil && binaries == "" && !downloaded(work) {
		if binaries, wanted = installed(ctx); binaries == "" {
			return nil, fmt.Errorf("embedded PostgreSQL: %w; no PostgreSQL is installed either: allow the download, install PostgreSQL, or set POSTGRES_DSN", err)
		}
		logf(fmt.Sprintf("cannot download PostgreSQL (%v); using the installed %s in %s", err, wanted, binaries))
		pg, err = start()
	}
	if err == nil && binaries == "" {
		err = errors.Join(keepArchives(work, cache), keepUnpacked(filepath.Join(data, "runtime"), unpacked))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("embedded PostgreSQL in %s: %w\n%s", dir, err, tail(log.String(), 2000)), stopLeftover(cluster))
		return nil, err
	}
	stop := func() error { return errors.Join(owner.run(pg.Stop), os.RemoveAll(work)) }
	return &Postgres{DSN: dsnOf(strconv.Itoa(int(port))), Fresh: fresh, stop: stop}, nil
}

// workDir creates a directory for the downloads, logs and temporary files of one run. Each run needs a new directory, because the directory belongs to the
// user that runs the server, while the cache of downloads belongs to the user of this process. workDir removes the directories of runs that were killed.
func workDir(data string, o owner) (string, error) {
	left, err := filepath.Glob(filepath.Join(data, "start-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(data, "start-")
	if err != nil {
		return "", err
	}
	return dir, os.Lchown(dir, o.uid, o.gid)
}

// ignoreLibpqVariables removes PGHOST, PGSERVICE, PGOPTIONS and similar variables from the environment of this process. They are meant for other databases,
// and would change the programs of the embedded server and the connections to it.
func ignoreLibpqVariables() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name) // fails only for malformed names
		}
	}
}

// Running returns the DSN of the server that runs with its data below dir, for example in another process; empty if there is none. Like StartPostgres it
// removes the PG* variables from the environment of this process.
func Running(dir string) string {
	ignoreLibpqVariables()
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

// Stop stops the server cleanly and waits until it has ended.
func (p *Postgres) Stop() error { return p.stop() }

// cacheDir is the directory with the downloads for all data directories.
func cacheDir(dir string) string {
	base, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(dir, "cache") // a user without a home directory has the cache in the data directory
	}
	return filepath.Join(base, "millrace-postgres")
}

// copyArchives copies downloads from one directory to another unless they are there. It skips links and special files, because the first directory may
// belong to another user.
func copyArchives(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || filepath.Ext(e.Name()) != ".txz" {
			continue
		}
		target := filepath.Join(to, e.Name())
		if _, err := os.Stat(target); err == nil {
			continue
		}
		if err := copyFile(filepath.Join(from, e.Name()), target); err != nil {
			return err
		}
	}
	return nil
}

// keepArchives moves downloads to the cache.
func keepArchives(work, cache string) error {
	if err := copyArchives(work, cache); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.txz"))
	for _, archive := range archives {
		err = errors.Join(err, os.Remove(archive))
	}
	return err
}

// keepUnpacked copies the unpacked programs to the cache atomically.
func keepUnpacked(from, to string) error {
	beside, err := os.MkdirTemp(filepath.Dir(to), "unpacking-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside) //nolint:errcheck // empty if all went well
	if err := copyTree(from, filepath.Join(beside, "all")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(beside, "all"), to); err != nil && !errors.Is(err, fs.ErrExist) { // another process has copied them first
		return err
	}
	return nil
}

// copyTree copies directories, files and links to files of the same tree. Every user can read and execute the copy.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case e.IsDir():
			return errors.Join(os.Mkdir(target, 0o755), os.Chmod(target, 0o755)) //nolint:gosec // the unprivileged user must get through
		case e.Type() == fs.ModeSymlink:
			points, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if filepath.IsAbs(points) || !filepath.IsLocal(filepath.Join(filepath.Dir(relative), points)) {
				return fmt.Errorf("the link %s points out of %s", path, from)
			}
			return os.Symlink(points, target) //nolint:gosec // the directories are this process's own
		case !e.Type().IsRegular():
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := copyFile(path, target); err != nil {
			return err
		}
		return os.Chmod(target, 0o644|info.Mode().Perm()&0o111)
	})
}

// copyFile copies a file atomically.
func copyFile(from, to string) error {
	source, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW, 0) //nolint:gosec // in a directory of ours
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // it was only read
	target, err := os.CreateTemp(filepath.Dir(to), "copy-")
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	if err := errors.Join(err, target.Chmod(0o644), target.Close()); err != nil {
		return errors.Join(err, os.Remove(target.Name()))
	}
	return os.Rename(target.Name(), to)
}

func downloaded(cache string) bool {
	found, err := filepath.Glob(filepath.Join(cache, "*.txz"))
	return err == nil && len(found) > 0
}

// installed finds the newest PostgreSQL on this host. It returns the directory that contains bin/initdb, and the version.
func installed(ctx context.Context) (dir string, version embeddedpostgres.PostgresVersion) {
	var candidates []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin/initdb", "/opt/homebrew/opt/postgresql*/bin/initdb", "/usr/local/opt/postgresql*/bin/initdb",
	} {
		found, _ := filepath.Glob(pattern) // a constant pattern has no error
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

// nobody is the user id of the server if this process runs as root, because PostgreSQL refuses to run as root. The id needs no account.
const nobody = 65534

// owner is the user that runs the server.
type owner struct{ uid, gid int }

// ownerOf returns the user that runs the server on a data directory: the user of this process or, if that is root, the owner of the directory. A new
// directory of root is given to nobody. The owner of existing files never changes.
func ownerOf(data string) (owner, error) {
	if os.Geteuid() != 0 {
		return owner{os.Geteuid(), os.Getegid()}, nil
	}
	info, err := os.Lstat(data)
	if err != nil {
		return owner{}, fmt.Errorf("DATA_DIR: %w", err)
	}
	if !info.IsDir() {
		return owner{}, fmt.Errorf("DATA_DIR: %s is a link or a file: remove it, or set DATA_DIR to another directory", data)
	}
	if at := info.Sys().(*syscall.Stat_t); at.Uid != 0 { //nolint:forcetypeassert // that of Unix
		return owner{int(at.Uid), int(at.Gid)}, nil
	}
	entries, err := os.ReadDir(data)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s belongs to root, whom PostgreSQL refuses: give it to another user, or set DATA_DIR to another directory", data)
	}
	if err == nil {
		err = os.Lchown(data, nobody, nobody)
	}
	if err != nil {
		return owner{}, fmt.Errorf("DATA_DIR: %w", err)
	}
	return owner{nobody, nobody}, nil
}

// run calls f as the owner. Only one thread changes its identity, with raw system calls, and the server inherits the identity because it is forked on that
// thread. The goroutine never unlocks the thread, so the thread ends with the goroutine. The owner must be able to enter the first of dirs; the last of dirs
// is for temporary files. A panic of the library is returned as an error.
func (o owner) run(f func() error, dirs ...string) error {
	safe := func() (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = fmt.Errorf("panic: %v", value)
			}
		}()
		return f()
	}
	if os.Geteuid() != 0 {
		return safe()
	}
	if len(dirs) > 0 {
		if err := reachable(dirs[0]); err != nil && !mayPass() {
			return err
		}
		// The library writes a temporary file, and root's directory for temporary files may be closed to others.
		before, had := os.LookupEnv("TMPDIR")
		_ = os.Setenv("TMPDIR", dirs[len(dirs)-1]) // fails only for malformed names
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
		done <- asUser(o, safe)
	}()
	return <-done
}

// reachable returns an error that names a directory above dir that other users cannot enter.
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

// stopLeftover stops a server that still uses the data directory because its parent was killed.
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
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} { // fast shutdown, then immediate shutdown
		_ = syscall.Kill(pid, signal) // an error means that the server has already ended
		for range 100 {
			if !isServer(pid, cluster) { // a zombie is no longer a server
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return fmt.Errorf("the PostgreSQL server %d still holds %s and does not stop", pid, cluster)
}

// isServer reports whether a process is the server of this cluster, and not another process with the same id.
func isServer(pid int, cluster string) bool {
	output, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec,noctx // a number; ends at once
	if err != nil {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // for hosts without ps
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
