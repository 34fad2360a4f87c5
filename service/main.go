package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/identity"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/ports/cli"
	"github.com/millrace/millrace/sagas"
)

// stopWithin bounds a clean stop.
const stopWithin = 10 * time.Second

// Main carries out a command line and returns the exit code. It ends early when ctx is done.
func Main(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	config, err := ReadConfig(getenv)
	if err != nil && !isHelp(args) {
		_, _ = fmt.Fprintln(stderr, "millrace:", strings.ReplaceAll(err.Error(), "\n", "\nmillrace: "))
		return 2
	}
	log := newLog(config, stderr)
	a := program{config, log, limitMemory(getenv), stdout, stderr}
	return cli.App{
		Stdout: stdout, Stderr: stderr, URL: "http://" + reachableAddr(cmp.Or(config.OpsAddr, config.HTTPAddr)), Interactive: isTerminal(stderr),
		Serve: a.serve, ServeOwn: a.serveOwn, Sandbox: a.sandbox, Migrate: a.migrate, Projections: a.listProjections, Rebuild: a.rebuild, Audit: a.audit, Diagram: diagram, AsyncAPI: a.printAsyncAPI,
		Token: a.token, Sign: a.sign,
	}.Run(ctx, args)
}

func isHelp(args []string) bool {
	return len(args) > 0 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help")
}

func newLog(c Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// reachableAddr is how to call an instance that listens on all addresses.
func reachableAddr(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

type program struct {
	config         Config
	log            *slog.Logger
	memory         memory
	stdout, stderr io.Writer
}

// token is what the command line asks a service with.
func (p program) token() string {
	if p.config.Token != "" || p.config.Auth.Secret == "" {
		return p.config.Token
	}
	token, err := p.sign("command line", identity.Operator, time.Hour)
	if err != nil {
		p.log.Warn("cannot make a token", "error", err)
	}
	return token
}

func (p program) sign(subject, role string, valid time.Duration) (string, error) {
	if p.config.Auth.Secret == "" {
		return "", fmt.Errorf("%w: AUTH_SECRET: is not set, so there is nothing to sign a token with", cli.ErrUsage)
	}
	return p.config.Auth.Sign(subject, role, time.Now().Add(valid))
}

func (p program) say(line string) { _, _ = fmt.Fprintln(p.stderr, line) }

func (p program) serve(ctx context.Context) error {
	s, err := Start(ctx, p.config, p.log, p.say)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprint(p.stdout, s.banner(p.memory))
	var failure error
	select {
	case <-ctx.Done():
		p.say("stopping")
	case failure = <-s.Failed():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(failure, s.Stop(stopCtx))
}

func (s *Service) banner(memory memory) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "  %-10s %s\n", name, value) }
	b.WriteString("millrace is ready\n")
	if s.config.Roles[API] {
		line("pages", s.OpsURL+"/ui/")
		line("api", s.URL+"/docs")
	}
	where := "set by POSTGRES_DSN"
	if s.postgres != nil {
		where = "embedded, data in " + s.config.DataDir + ": " + s.DSN
	}
	line("postgres", where)
	line(s.broker.Name(), s.broker.Where())
	if s.sandbox != nil {
		line("sandbox", s.OpsURL+"/v1/sandbox/payments and …/carrier")
	}
	line("memory", memory.String())
	b.WriteString("try, in another terminal:\n")
	for _, try := range append(s.tries(), "go run . sagas list") {
		b.WriteString("  " + try + "\n")
	}
	return b.String()
}

// database is the one that is set, or the embedded one, which is started here and is ours until stop is called.
func (p program) database(ctx context.Context) (dsn string, stop func() error, err error) {
	if p.config.PostgresDSN != "" {
		return p.config.PostgresDSN, func() error { return nil }, nil
	}
	release, err := embedded.Lock(p.config.DataDir)
	if err != nil {
		return "", nil, err
	}
	pg, err := embedded.StartPostgres(ctx, p.config.DataDir, p.say)
	if err != nil {
		return "", nil, errors.Join(err, release())
	}
	return pg.DSN, func() error { return errors.Join(pg.Stop(), release()) }, nil
}

func (p program) migrate(ctx context.Context, action string) (err error) {
	dsn, stop, err := p.database(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	db, err := postgres.Open(dsn, 4)
	if err != nil {
		return fmt.Errorf("POSTGRES_DSN: %w", err)
	}
	defer db.Close() //nolint:errcheck // nothing is pending
	if err := postgres.Wait(ctx, db, p.config.PostgresWait, p.log); err != nil {
		return err
	}
	switch action {
	case "up":
		err = schema.Up(ctx, db.DB)
	case "down":
		err = schema.Down(ctx, db.DB)
	}
	if err != nil {
		return err
	}
	versions, err := schema.List(ctx, db.DB)
	for _, v := range versions {
		state := "pending"
		if v.Applied {
			state = "applied"
		}
		_, _ = fmt.Fprintf(p.stdout, "%-8s %5d  %-8s %s\n", v.Set, v.Version, state, v.Name)
	}
	return err
}

// diagram draws a saga by its name.
func diagram(name string) (string, error) {
	var known []string
	for _, s := range sagas.All() {
		if s.Name() == name {
			return s.Diagram(), nil // the newest version stands first
		}
		known = append(known, s.Name())
	}
	return "", fmt.Errorf("%w: there is no saga %q; there is: %s", cli.ErrUsage, name, strings.Join(known, ", "))
}
