// Package harness is kittest for this service: instances whose clients also place orders, the sandbox, and the check of the invariants.
package harness

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/kit/kittest"
)

// Environment is what instances share: a database, a broker, a data directory, the sandbox.
type Environment struct {
	*kittest.Environment
	t       *testing.T
	sandbox string // URL of the sandbox, if it has a process of its own

	// Grown says that partitions were added to topics: the events of a stream may be in several.
	Grown atomic.Bool
}

// Instance is a running process of the service.
type Instance struct {
	*kittest.Instance
	Orders
	env *Environment
}

// Client speaks HTTP with an instance.
type Client struct {
	kittest.Client
	Orders
}

// Orders places and reads orders, by way of a client.
type Orders struct {
	t      *testing.T
	client kittest.Client
	placed *atomic.Int64 // orders, of this client and its copies
}

// NewClient makes a client of a base URL.
func NewClient(t *testing.T, url string) Client {
	client := kittest.NewClient(t, url)
	return Client{client, Orders{t, client, &atomic.Int64{}}}
}

// NewEnvironment makes a world of the test's own. Settings are added to the environment of each instance.
func NewEnvironment(t *testing.T, settings ...string) *Environment {
	t.Helper()
	w := &Environment{Environment: kittest.NewEnvironment(t), t: t}
	w.Set("WAREHOUSE_TOPICS", w.Prefix+".warehouse")
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		w.Set(name, value)
	}
	w.FromHost = w.fromHost
	return w
}

// outside are the settings of the services that the sandbox stands in for, and their paths there.
var outside = map[string]string{"PAYMENTS_URL": "/payments", "CARRIER_URL": "/carrier", "COURIER_URL": "/courier"}

func (w *Environment) fromHost(host *kittest.Instance) map[string]string {
	if w.sandbox != "" || w.Setting("PAYMENTS_URL") != "" {
		return nil
	}
	settings := map[string]string{}
	for name, path := range outside {
		settings[name] = host.URL + "/sandbox" + path
	}
	return settings
}

// Shared returns an instance for tests that neither break nor restart it: COMPONENT_URL's, or a new one. With LONG_TESTS it is the first of two
// that share the work, so that what only two instances can get wrong is met by every such test.
func Shared(t *testing.T, settings ...string) *Instance {
	t.Helper()
	if u := kittest.External(); u != "" {
		return instance(t, nil, kittest.Attach(t, u))
	}
	w := NewEnvironment(t, append([]string{"LOAD_DISTRIBUTION=instances"}, settings...)...)
	i := w.Host()
	if !kittest.LongTests() {
		return i
	}
	w.Start()
	return i
}

func instance(t *testing.T, w *Environment, i *kittest.Instance) *Instance {
	return &Instance{i, Orders{t, i.Client, &atomic.Int64{}}, w}
}

// Host starts the instance that runs the embedded parts and the sandbox. Instances that are started after it share them.
func (w *Environment) Host(settings ...string) *Instance {
	w.t.Helper()
	return instance(w.t, w, w.Environment.Host(settings...))
}

// Start starts an instance and waits until it is ready. It is stopped at the test's end.
func (w *Environment) Start(settings ...string) *Instance {
	w.t.Helper()
	return instance(w.t, w, w.Environment.Start(settings...))
}

// StartWith starts an instance whose settings it keeps when it is started again.
func (w *Environment) StartWith(settings ...string) *Instance {
	w.t.Helper()
	return instance(w.t, w, w.Environment.StartWith(settings...))
}

// Launch starts an instance and does not wait.
func (w *Environment) Launch(settings ...string) *Instance {
	w.t.Helper()
	return instance(w.t, w, w.Environment.Launch(settings...))
}

// Environment is what the instance shares with others.
func (i *Instance) Environment() *Environment { return i.env }

// HTTP is the client that the instance is called with.
func (i *Instance) HTTP() *http.Client { return i.Instance.HTTP() }
