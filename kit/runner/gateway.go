package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/kit/breaker"
	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/sandbox"
	"github.com/millrace/millrace/kit/settings"
)

// Gateway registers an external service that commands call. The URL of the service is a setting, its calls have a circuit breaker, and a stand-in
// in the sandbox can replace it.
type Gateway struct {
	Name        string // of the circuit breaker and of the stand-in
	Destination string // of the commands that call the service; empty: Name
	Setting     string // name of the setting with the URL; empty: CARD_READER_URL for the Name card-reader

	// StandIn makes the stand-in that the sandbox serves. The sandbox runs if the settings of all gateways that are not Optional are empty, or, with
	// SANDBOX=on, if some are empty. Nil means that there is no stand-in.
	StandIn func() *sandbox.Service

	// Optional marks a service that may be absent while the URLs of the other gateways are set. Its URL is empty then.
	Optional bool
}

func (g Gateway) setting() string {
	return cmp.Or(g.Setting, strings.ToUpper(strings.ReplaceAll(g.Name, "-", "_"))+"_URL")
}

// gateways reads the URLs of the external services. It reports a fault if clients could take the sandbox for the real services.
func (s reader) gateways(c *Config, all []Gateway) {
	c.Gateways = map[string]string{}
	c.SandboxMeant = s.OnOff("SANDBOX", false)
	var required, missing []string
	for _, g := range all {
		c.Gateways[g.Name] = s.URL(g.setting())
		if g.Optional {
			continue
		}
		required = append(required, g.setting())
		if c.Gateways[g.Name] == "" {
			missing = append(missing, g.setting())
		}
	}
	switch {
	case len(missing) > 0 && len(missing) < len(required) && !c.SandboxMeant:
		s.Fault(required[0], "and "+strings.Join(required[1:], ", ")+" are set together, or none of them; with SANDBOX=on the sandbox stands in for the missing ones")
	case len(missing) > 0 && len(standIns(all)) > 0 && !c.SandboxMeant && !settings.Loopback(c.HTTPAddr):
		s.Fault("SANDBOX", fmt.Sprintf("without %s the sandbox would stand in for them, and HTTP_ADDR %s is beyond loopback: set SANDBOX=on if that is meant", strings.Join(required, " and "), c.HTTPAddr))
	}
}

func standIns(all []Gateway) (out []*sandbox.Service) {
	for _, g := range all {
		if g.StandIn != nil {
			out = append(out, g.StandIn())
		}
	}
	return out
}

// needsSandbox reports whether the service has stand-ins, and a required gateway, or every gateway, has no URL.
func (d *Service) needsSandbox(c Config) bool {
	set := false
	for _, g := range d.Gateways {
		if !g.Optional && c.Gateways[g.Name] == "" {
			return len(standIns(d.Gateways)) > 0
		}
		set = set || c.Gateways[g.Name] != ""
	}
	return !set && len(standIns(d.Gateways)) > 0
}

// startSandbox starts the sandbox if needsSandbox says so.
func (s *Instance) startSandbox(ctx context.Context, _ func(string)) error {
	if !s.def.needsSandbox(s.config) {
		return nil
	}
	if err := s.lockData(); err != nil {
		return err
	}
	box, err := sandbox.Open(filepath.Join(s.config.DataDir, "sandbox"), standIns(s.def.Gateways)...)
	if err != nil {
		return err
	}
	s.sandbox = box
	s.announced = append(s.announced, [2]string{"sandbox", s.sandboxAddress()})
	s.onStop(func(context.Context) error { return box.Close() })
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	s.sandboxURL = "http://" + listener.Addr().String()
	server := &http.Server{Handler: box.Handler(), ReadHeaderTimeout: 5 * time.Second}
	s.onStop(func(context.Context) error { return server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("sandbox: %w", err)
		}
	}()
	return nil
}

// sandboxAddress is the URL of the fault settings of the stand-ins, for the banner.
func (s *Instance) sandboxAddress() string {
	var names []string
	for _, g := range s.def.Gateways {
		if !g.Optional && g.StandIn != nil {
			names = append(names, g.Name)
		}
	}
	return s.OpsURL + sandbox.ControlPath + strings.Join(names, " and …/")
}

// mountSandbox lets other instances share the sandbox of this one.
func (s *Instance) mountSandbox() []httpapi.Mount {
	if s.sandbox == nil {
		return nil
	}
	return []httpapi.Mount{{Pattern: "/sandbox/*", Handler: http.StripPrefix("/sandbox", s.sandbox.Handler())}}
}

// GatewayURL returns the URL of a gateway's service: the value of its setting, or the URL of its stand-in in the sandbox. It is empty if there is
// neither.
func (k *Kit) GatewayURL(name string) string {
	if k.instance == nil {
		return ""
	}
	if url := k.instance.config.Gateways[name]; url != "" {
		return url
	}
	if k.instance.sandbox == nil || k.instance.sandbox.Service(name) == nil {
		return ""
	}
	return k.instance.sandboxURL + "/" + name
}

// Sandbox reports whether the sandbox with the stand-ins of the external services runs in this instance.
func (k *Kit) Sandbox() bool { return k.instance.sandbox != nil }

// guard makes the circuit breakers of the destinations whose commands call an external service.
func (s *Instance) guard(failed func(error) bool) {
	chosen := s.def.Breaker
	if chosen == nil {
		chosen = breaker.Default
	}
	for _, g := range s.def.Gateways {
		s.guards[cmp.Or(g.Destination, g.Name)] = s.newBreaker(chosen(g.Name), failed)
	}
}

// sandboxCommand is the command that runs only the sandbox, for several instances to share.
func (p *Program) sandboxCommand() *cobra.Command {
	addr := "127.0.0.1:8090"
	c := &cobra.Command{Use: "sandbox", Short: "Run the stand-ins of the external services alone, for several instances to share", Args: cli.Args(0), RunE: func(c *cobra.Command, _ []string) error {
		return p.runSandbox(c.Context(), addr)
	}}
	c.Flags().StringVar(&addr, "addr", addr, "where to listen, host:port")
	return c
}

func (p *Program) runSandbox(ctx context.Context, addr string) error {
	box, err := sandbox.Open(filepath.Join(p.config.DataDir, "sandbox"), standIns(p.def.Gateways)...)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("--addr: %w", err), box.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/sandbox/", box.Control())
	mux.Handle("/", box.Handler())
	base := "http://" + ReachableAddr(listener.Addr().String())
	for _, g := range p.def.Gateways {
		if box.Service(g.Name) != nil {
			_, _ = fmt.Fprintf(p.stdout, "%s=%s/%s\n", g.setting(), base, g.Name)
		}
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close() // it does not wait for slow answers
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, box.Close())
	}
	return box.Close()
}
