// Package twoservices makes two services out of the template, orders and billing, and has a saga of the one ask the other, by Kafka alone.
package twoservices

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver
	"github.com/stretchr/testify/require"
)

// service is a process, on an embedded PostgreSQL of its own.
type service struct {
	t        *testing.T
	path     string
	settings []string
	url      string
	command  *exec.Cmd
	mu       sync.Mutex
	output   bytes.Buffer
}

func start(t *testing.T, dir string, settings ...string) *service {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(dir))
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	build.Dir = dir
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	l, err := net.Listen("tcp", "127.0.0.1:0") // local, at once
	require.NoError(t, err)
	require.NoError(t, l.Close())
	s := &service{t: t, path: path, url: "http://" + l.Addr().String(), settings: append(settings, "HTTP_ADDR="+l.Addr().String(), "DATA_DIR="+t.TempDir())}
	s.run()
	t.Cleanup(func() {
		_ = s.command.Process.Signal(syscall.SIGTERM)
		_ = s.command.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(dir), s.said())
		}
	})
	return s
}

func (s *service) run() {
	s.t.Helper()
	s.command = exec.Command(s.path) // ended by the clean-up
	s.command.Env = append(append(os.Environ(), "POSTGRES_DSN=", "KAFKA_BROKERS="), s.settings...)
	out, err := s.command.StdoutPipe()
	require.NoError(s.t, err)
	s.command.Stderr = s.command.Stdout
	require.NoError(s.t, s.command.Start())
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.mu.Lock()
			s.output.WriteString(lines.Text() + "\n")
			s.mu.Unlock()
		}
	}()
	s.until("/readyz", func(status int, body string) bool {
		return status == http.StatusOK && !strings.Contains(body, "degraded")
	})
}

func (s *service) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

func (s *service) until(path string, good func(status int, body string) bool) (body string) {
	s.t.Helper()
	status, err := 0, error(nil)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if status, body, err = s.call(http.MethodGet, path, ""); err == nil && good(status, body) {
			return body
		}
	}
	s.t.Fatalf("%s: %d %v %s", path, status, err, body)
	return ""
}

func (s *service) call(method, path, body string) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(context.Background(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(response.Body)
	return response.StatusCode, text.String(), err
}

// printed is what follows a word in what the service printed when it started last. It is ready before it prints that.
func (s *service) printed(form string) string {
	s.t.Helper()
	var found [][]string
	for deadline := time.Now().Add(10 * time.Second); len(found) == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		found = regexp.MustCompile(form).FindAllStringSubmatch(s.said(), -1)
	}
	require.NotEmpty(s.t, found, s.said())
	return found[len(found)-1][1]
}

func (s *service) place(sku string, price int) (id string) {
	s.t.Helper()
	status, body, err := s.call(http.MethodPost, "/v1/orders",
		fmt.Sprintf(`{"lines":[{"sku":%q,"quantity":1,"unit_price":%d}],"currency":"EUR","payment_method":"pm_ok"}`, sku, price))
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusAccepted, status, body)
	var order struct {
		ID string `json:"order_id"`
	}
	require.NoError(s.t, json.Unmarshal([]byte(body), &order))
	return order.ID
}

type order struct{ Status, Reason string }

func (s *service) decided(id string) (o order) {
	s.t.Helper()
	body := s.until("/v1/orders/"+id, func(_ int, body string) bool { return !strings.Contains(body, `"status":"pending"`) })
	require.NoError(s.t, json.Unmarshal([]byte(body), &o))
	return o
}

func TestASagaAcrossTwoServices(t *testing.T) {
	if os.Getenv("TEMPLATE_TESTS") == "" {
		t.Skip("makes and builds two services, which takes minutes: make template-test, as CI does")
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "./make.sh", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, packages := range map[string]string{
		"orders": "./sagas/... ./service ./tests/arch", "billing": "./domain/... ./service ./tests/arch",
	} {
		tests := exec.CommandContext(t.Context(), "go", append([]string{"test", "-run", "TestInvoice|TestArch|TestDocuments|TestThe"}, strings.Fields(packages)...)...)
		tests.Dir = filepath.Join(dir, name)
		out, err := tests.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}

	here := "t" + uuid.NewString()[:8]
	ordersTopics, billingTopics := here+".orders", here+".billing"
	orders := start(t, filepath.Join(dir, "orders"), "TOPIC_PREFIX="+ordersTopics, "BILLING_TOPICS="+billingTopics, "KAFKA_BROKERS="+os.Getenv("KAFKA_BROKERS"))
	brokers := orders.printed(`kafka +(\S+)`)
	billing := start(t, filepath.Join(dir, "billing"), "TOPIC_PREFIX="+billingTopics, "KAFKA_BROKERS="+brokers)

	require.Equal(t, "confirmed", orders.decided(orders.place("MUG-01", 1000)).Status)
	tooMuch := orders.decided(orders.place("MUG-01", 200_000))
	require.Equal(t, order{"cancelled", "billing trusts up to 100000, not 200000"}, tooMuch)
	heavy := orders.place("HEAVY-99", 1000)
	require.Equal(t, "cancelled", orders.decided(heavy).Status)
	orders.until("/v1/sagas", func(_ int, body string) bool {
		var list struct {
			Sagas []struct {
				Subject, Status string
				Steps           []struct{ Name, Status string }
			}
		}
		if json.Unmarshal([]byte(body), &list) != nil {
			return false
		}
		for _, s := range list.Sagas {
			for _, step := range s.Steps {
				if s.Subject == heavy && step.Name == "issue invoice" && step.Status == "compensated" {
					return true
				}
			}
		}
		return false
	})

	// While billing is away, orders are accepted, and go on when it is back.
	require.NoError(t, billing.command.Process.Kill())
	_ = billing.command.Wait() // it was killed
	var waiting []string
	for range 20 {
		waiting = append(waiting, orders.place("TEE-02", 1000))
	}
	billing.run()
	confirmed := 1
	for _, id := range waiting {
		switch o := orders.decided(id); o.Status { // cancelled, if billing was away for longer than the step has time
		case "confirmed":
			confirmed++
		default:
			require.Contains(t, o.Reason, "issue invoice")
		}
	}
	require.Greater(t, confirmed, 1)

	// What billing has issued and not cancelled is what orders has confirmed.
	db, err := sql.Open("pgx", billing.printed(`(postgres://\S+)`))
	require.NoError(t, err)
	defer db.Close()
	require.Eventually(t, func() bool {
		owed := 0
		err := db.QueryRow(`SELECT count(*) FILTER (WHERE type = 'invoice.issued') - count(*) FILTER (WHERE type = 'invoice.cancelled' AND version > 1) FROM events`).Scan(&owed)
		return err == nil && owed == confirmed
	}, time.Minute, 100*time.Millisecond)
}
