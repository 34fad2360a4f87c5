package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/service"
)

// outside is a process of this program with the clients and the sandbox of the external services, so that what the process of the service uses is the
// service's. It reads a line of JSON for each load of orders, and answers with a line when they are placed.
type outside struct {
	command  *exec.Cmd
	orders   io.WriteCloser
	answers  *bufio.Scanner
	settings []string // of a service that calls its sandbox: PAYMENTS_URL, …
	base     string   // of the sandbox
}

// load is orders to place at a service.
type load struct {
	URL                   string
	Orders, SKUs, Clients int
}

// ready is the end of what the process says at its start.
const ready = "ready"

func startOutside(dir string) (o *outside, err error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o = &outside{command: exec.Command(path, "-outside", dir)}
	o.command.Stderr = os.Stderr
	if o.orders, err = o.command.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := o.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.answers = bufio.NewScanner(answers)
	if err := o.command.Start(); err != nil {
		return nil, err
	}
	for o.answers.Scan() && o.answers.Text() != ready {
		name, url, _ := strings.Cut(o.answers.Text(), "=")
		o.settings = append(o.settings, name, url)
		o.base = url[:strings.LastIndex(url, "/")]
	}
	if o.base == "" {
		return nil, errors.Join(errors.New("the process of clients and sandbox did not start"), o.stop())
	}
	return o, nil
}

func (o *outside) stop() error { return errors.Join(o.orders.Close(), o.command.Wait()) }

// place returns when all orders are placed.
func (o *outside) place(l load) error {
	if err := json.NewEncoder(o.orders).Encode(l); err != nil {
		return err
	}
	if !o.answers.Scan() {
		return errors.Join(errors.New("the process of the clients ended"), o.answers.Err())
	}
	if answer := o.answers.Text(); answer != ready {
		return errors.New(answer)
	}
	return nil
}

// beOutside is that process. It ends when the one that has started it does.
func beOutside(ctx context.Context, dir string, orders io.Reader, answers io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	announced, ended := io.Pipe()
	sandbox := make(chan error, 1)
	go func() {
		code := runner.Run(ctx, service.New(), []string{"sandbox", "--addr", "127.0.0.1:0"}, func(name string) string {
			return map[string]string{"DATA_DIR": dir}[name]
		}, ended, os.Stderr)
		sandbox <- errors.Join(ended.Close(), map[bool]error{true: fmt.Errorf("the sandbox ended with code %d", code)}[code != 0])
	}()
	lines, urls := bufio.NewScanner(announced), 0
	for urls < len(standIns()) && lines.Scan() {
		fmt.Fprintln(answers, lines.Text())
		urls++
	}
	fmt.Fprintln(answers, ready)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256}, Timeout: 30 * time.Second}
	for loads := json.NewDecoder(orders); ; {
		var l load
		if err := loads.Decode(&l); err != nil {
			stop()
			return <-sandbox
		}
		if err := l.place(ctx, client); err != nil {
			fmt.Fprintln(answers, strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Fprintln(answers, ready)
	}
}

// standIns are the external services that the sandbox plays.
func standIns() (names []string) {
	for _, g := range service.New().Gateways {
		if g.StandIn != nil {
			names = append(names, g.Name)
		}
	}
	return names
}

// place places the orders as fast as the clients can.
func (l load) place(ctx context.Context, client *http.Client) error {
	var placed atomic.Int64
	clients, ctx := errgroup.WithContext(ctx)
	for range l.Clients {
		clients.Go(func() error {
			for {
				n := int(placed.Add(1))
				if n > l.Orders {
					return nil
				}
				if err := post(ctx, client, l.URL+"/v1/orders", orderOf(sku(n%l.SKUs))); err != nil {
					return err
				}
			}
		})
	}
	return clients.Wait()
}

func post(ctx context.Context, client *http.Client, url string, body any, header ...string) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() // read to its end
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("POST %s: %s: %s", url, response.Status, answer)
	}
	return err
}
