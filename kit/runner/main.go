package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/identity"
	"github.com/millrace/millrace/kit/postgres"
)

// stopWithin limits a clean stop.
const stopWithin = 10 * time.Second

// Main runs a service as a program: it executes the command line and returns the exit code. SIGINT and SIGTERM stop it.
func Main(d Service) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, d, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
}

// Run executes a command line and returns the exit code, which is 2 for wrong settings. It ends early when ctx is done.
func Run(ctx context.Context, d Service, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	config, err := ReadConfig(&d, getenv)
	if err == nil && (len(args) == 0 || args[0] == "serve" || args[0] == "demo") {
		err = config.checkEmbedded()
	}
	if err != nil && !isHelp(args) {
		_, _ = fmt.Fprintf(stderr, "%s: %s\n", d.Name, strings.ReplaceAll(err.Error(), "\n", "\n"+d.Name+": "))
		return 2
	}
	log := newLog(config, stderr)
	p := &Program{def: &d, config: config, log: log, memory: limitMemory(getenv), stderr: stderr, stdout: stdout}
	p.App = &cli.App{
		Name: d.Name, Summary: d.Summary,
		Stdout: stdout, Stderr: stderr, URL: "http://" + ReachableAddr(cmp.Or(config.OpsAddr, config.HTTPAddr)), Interactive: isTerminal(stderr),
		Serve: func(ctx context.Context) error { warnOfFormer(getenv, log); return p.serve(ctx) }, Migrate: p.migrate, Projections: p.listProjections, Rebuild: p.rebuild, Audit: p.audit, Diagram: p.diagram, AsyncAPI: func() ([]byte, error) { return d.AsyncAPI(config) },
		Token: p.token, Sign: p.sign,
	}
	if d.CLI != nil {
		p.Commands = d.CLI(p)
	}
	if len(standIns(d.Gateways)) > 0 {
		p.Commands = append(p.Commands, p.sandboxCommand())
	}
	return p.Run(ctx, args)
}

func isHelp(args []string) bool {
	return slices.Contains(args, "help") || slices.Contains(args, "-h") || slices.Contains(args, "--help") || slices.Contains(args, "completion")
}

func newLog(c Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(newExhaustion(slog.NewJSONHandler(w, options)))
	}
	return slog.New(newExhaustion(slog.NewTextHandler(w, options)))
}

// ReachableAddr returns a loopback address if addr means all addresses of the host; otherwise it returns addr.
func ReachableAddr(addr string) string {
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

// Program is the command line of a service. Service.CLI gets it.
type Program struct {
	*cli.App
	def            *Service
	config         Config
	log            *slog.Logger
	memory         memory
	stdout, stderr io.Writer
}

// Config is the settings of the service.
func (p *Program) Config() Config { return p.config }

// token is the bearer token that the command line sends.
func (p *Program) token() string {
	if p.config.Token != "" || p.config.Auth.Secret == "" {
		return p.config.Token
	}
	token, err := p.sign("command line", identity.Operator, time.Hour)
	if err != nil {
		p.log.Warn("cannot sign a token", "error", err)
	}
	return token
}

func (p *Program) sign(subject, role string, valid time.Duration) (string, error) {
	if p.config.Auth.Secret == "" {
		return "", fmt.Errorf("%w: AUTH_SECRET: is not set, so there is nothing to sign a token with", cli.ErrUsage)
	}
	return p.config.Auth.Sign(subject, role, time.Now().Add(valid))
}

// Say writes a line to stderr, for the user of the command line.
func (p *Program) Say(line string) { _, _ = fmt.Fprintln(p.stderr, line) }

func (p *Program) serve(ctx context.Context) error {
	s, err := Start(ctx, p.def, p.config, p.log, p.Say)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprint(p.stdout, s.banner(p.memory))
	var failure error
	select {
	case <-ctx.Done():
		p.Say("stopping")
	case failure = <-s.Failed():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(failure, s.Stop(stopCtx))
}

func (s *Instance) banner(memory memory) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "  %-10s %s\n", name, value) }
	b.WriteString(s.def.Name + " is ready\n")
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
	for _, part := range s.announced {
		line(part[0], part[1])
	}
	line("memory", memory.String())
	b.WriteString("try, in another terminal:\n")
	if s.def.Hints != nil {
		for _, hint := range s.def.Hints(&s.kit) {
			b.WriteString("  " + hint + "\n")
		}
	}
	b.WriteString("  go run . sagas list\n")
	return b.String()
}

// database returns the configured database, or starts the embedded PostgreSQL, which stop stops.
func (p *Program) database(ctx context.Context) (dsn string, stop func() error, err error) {
	if p.config.PostgresDSN != "" {
		return p.config.PostgresDSN, func() error { return nil }, nil
	}
	release, err := embedded.Lock(p.config.DataDir)
	if err != nil {
		return "", nil, err
	}
	pg, err := embedded.StartPostgres(ctx, p.config.DataDir, p.Say)
	if err != nil {
		return "", nil, errors.Join(err, release())
	}
	return pg.DSN, func() error { return errors.Join(pg.Stop(), release()) }, nil
}

// runningDatabase is database, or the embedded PostgreSQL of a service that runs on the same data directory.
func (p *Program) runningDatabase(ctx context.Context) (dsn string, stop func() error, err error) {
	if p.config.PostgresDSN == "" {
		if dsn := embedded.Running(p.config.DataDir); dsn != "" {
			return dsn, func() error { return nil }, nil
		}
	}
	return p.database(ctx)
}

func (p *Program) migrate(ctx context.Context, action string) (err error) {
	open := p.database
	if action == "status" {
		open = p.runningDatabase
	}
	dsn, stop, err := open(ctx)
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
		err = p.def.schema().Up(ctx, db.DB)
	case "down":
		err = p.def.schema().Down(ctx, db.DB)
	}
	if err != nil {
		return err
	}
	versions, err := p.def.schema().List(ctx, db.DB)
	for _, v := range versions {
		state := "pending"
		if v.Applied {
			state = "applied"
		}
		_, _ = fmt.Fprintf(p.stdout, "%-8s %5d  %-8s %s\n", v.Set, v.Version, state, v.Name)
	}
	return err
}

// diagram draws the newest version of a saga.
func (p *Program) diagram(name string) (string, error) {
	var known []string
	for _, s := range p.def.Sagas {
		if s.Name() == name {
			return s.Diagram(), nil // a service lists the newest version first
		}
		known = append(known, s.Name())
	}
	return "", fmt.Errorf("%w: there is no saga %q; there is: %s", cli.ErrUsage, name, strings.Join(known, ", "))
}
