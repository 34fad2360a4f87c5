package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/adapters/sandbox"
	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/kit/settings"
)

// outside are the external services, and the sandbox that stands in for them where their settings are empty.
type outside struct {
	payments, carrier, courier string // URLs
	sandbox                    *sandbox.Sandbox
	sandboxURL                 string
}

// read reads the settings of the external services. It refuses the sandbox where clients could take it for the real services.
func (o *outside) read(r *settings.Reader, c runner.Config) {
	o.payments, o.carrier, o.courier = r.URL("PAYMENTS_URL"), r.URL("CARRIER_URL"), r.URL("COURIER_URL")
	meant := r.OnOff("SANDBOX", false)
	if (o.payments == "") != (o.carrier == "") {
		r.Fault("PAYMENTS_URL", "and CARRIER_URL are set together, or neither")
	}
	if o.payments == "" && !meant && !settings.Loopback(c.HTTPAddr) {
		r.Fault("SANDBOX", fmt.Sprintf("without PAYMENTS_URL and CARRIER_URL the sandbox would stand in for them, and HTTP_ADDR %s is beyond loopback: set SANDBOX=on if that is meant", c.HTTPAddr))
	}
}

// url is an external service's URL, or the sandbox's; empty if the other ones are set and this one is not.
func (o *outside) url(url, path string) string {
	if url != "" || o.sandbox == nil {
		return url
	}
	return o.sandboxURL + path
}

// startSandbox starts the sandbox if no external services are set.
func (o *outside) startSandbox(ctx context.Context, k *runner.Kit) error {
	if o.payments != "" {
		return nil
	}
	if err := k.LockData(); err != nil {
		return err
	}
	box, err := sandbox.Open(filepath.Join(k.Config().DataDir, "sandbox"))
	if err != nil {
		return err
	}
	o.sandbox = box
	k.Announce("sandbox", k.OpsURL()+"/v1/sandbox/payments and …/carrier")
	k.OnStop(func(context.Context) error { return box.Close() })
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	o.sandboxURL = "http://" + listener.Addr().String()
	server := &http.Server{Handler: box.Handler(), ReadHeaderTimeout: 5 * time.Second}
	k.OnStop(func(context.Context) error { return server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			k.Failed(fmt.Errorf("sandbox: %w", err))
		}
	}()
	return nil
}

// sandboxCommand runs the sandbox alone, for several instances to share.
func sandboxCommand(p *runner.Program) *cobra.Command {
	addr := "127.0.0.1:8090"
	c := &cobra.Command{Use: "sandbox", Short: "Run the stand-ins of the payment provider and the carriers alone", Args: cli.Args(0), RunE: func(c *cobra.Command, _ []string) error {
		return runSandbox(c.Context(), p, addr)
	}}
	c.Flags().StringVar(&addr, "addr", addr, "where to listen, host:port")
	return c
}

func runSandbox(ctx context.Context, p *runner.Program, addr string) error {
	box, err := sandbox.Open(filepath.Join(p.Config().DataDir, "sandbox"))
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
	base := "http://" + runner.ReachableAddr(listener.Addr().String())
	_, _ = fmt.Fprintf(p.Stdout, "PAYMENTS_URL=%s/payments\nCARRIER_URL=%s/carrier\nCOURIER_URL=%s/courier\n", base, base, base)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close() // slow answers are not waited for
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, box.Close())
	}
	return box.Close()
}
