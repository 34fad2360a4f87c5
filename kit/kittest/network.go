package kittest

import (
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Network is a TCP proxy between one process and a server, which a test can cut. NewNetwork makes it.
type Network struct {
	Address  string // the address that the process must connect to
	listener net.Listener
	server   string

	mu    sync.Mutex
	cut   chan struct{} // closed when the network works again; nil: it works
	open  map[net.Conn]bool
	ended bool
}

// NewNetwork returns a network to a server at host:port. It works until Cut, and ends with the test.
func NewNetwork(t *testing.T, server string) *Network {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &Network{Address: listener.Addr().String(), listener: listener, server: server, open: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { n.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		n.mu.Lock()
		n.ended = true
		n.mu.Unlock()
		n.Drop()
		n.Heal()
		running.Wait()
	})
	return n
}

// ToPostgres returns a network to the server of a DSN, and the DSN with which a process connects through the network.
func ToPostgres(t *testing.T, dsn string) (n *Network, through string) {
	t.Helper()
	at, err := url.Parse(dsn)
	require.NoError(t, err)
	n = NewNetwork(t, at.Host)
	at.Host = n.Address
	return n, at.String()
}

// Cut interrupts the network: data in both directions arrives only after Heal, and connections stay open.
func (n *Network) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut == nil {
		n.cut = make(chan struct{})
	}
}

// Drop closes the connections. Connections that are made while the network is cut get no answer.
func (n *Network) Drop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.open {
		_ = conn.Close()
	}
}

// Heal ends the effect of Cut.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut != nil {
		close(n.cut)
		n.cut = nil
	}
}

// wait waits while the network is cut.
func (n *Network) wait() {
	n.mu.Lock()
	cut := n.cut
	n.mu.Unlock()
	if cut != nil {
		<-cut
	}
}

func (n *Network) serve(client net.Conn) {
	defer n.keep(client)()
	n.wait()
	server, err := net.Dial("tcp", n.server)
	if err != nil {
		return
	}
	defer n.keep(server)()
	var copying sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
		copying.Go(func() {
			defer func() { _, _ = client.Close(), server.Close() }()
			for buffer := make([]byte, 32<<10); ; {
				read, err := from.Read(buffer)
				n.wait()
				if _, failed := to.Write(buffer[:read]); err != nil || failed != nil {
					return
				}
			}
		})
	}
	copying.Wait()
}

// keep registers a connection. The returned function closes and removes the connection.
func (n *Network) keep(conn net.Conn) (end func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[conn] = true
	if n.ended {
		_ = conn.Close()
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.open, conn)
		_ = conn.Close()
	}
}
