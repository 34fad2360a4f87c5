// The client of a Producer. A client that a broker has rejected is replaced. The unfinished requests of the old client are aborted first, so that no
// message is sent twice out of order. TestProducerEpochsAreUsedUp and TestProducerFollowsALeaderThatMoves show it.

package kafka

import (
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// errNotSent marks the error of a message that was certainly not sent.
var errNotSent = errors.New("not sent")

// anew starts a new producer epoch: the broker rejects a request of the old epoch that arrives later.
func (p *Producer) anew() {
	clear(p.sequences)
	if p.epoch == math.MaxInt16-1 { // MaxInt16 is not a valid epoch
		p.stale = true
		return
	}
	p.epoch++
}

func (p *Producer) connect() error {
	if p.stale {
		p.disconnect()
	}
	if p.client != nil {
		return nil
	}
	if p.failed != nil && time.Since(p.failedAt) < 500*time.Millisecond {
		return p.failed
	}
	s := p.config.sarama()
	s.Producer.Idempotent = true // required by InitProducerID; the settings below are required by Idempotent
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Net.MaxOpenRequests = 1
	s.Net.ReadTimeout = 15 * time.Second
	dial := p.config.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: s.Net.KeepAlive}).DialContext
	}
	conns := &connections{dialer: dialer{dial, s.Net.DialTimeout}}
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, conns
	client, err := sarama.NewClient(p.config.Brokers, s)
	if err == nil {
		var answer *sarama.InitProducerIDResponse
		if answer, err = client.InitProducerID(); err == nil && answer.Err != sarama.ErrNoError {
			err = answer.Err
		}
		if err == nil {
			p.client, p.conns, p.failed, p.stale = client, conns, nil, false
			p.id, p.epoch, p.sequences = answer.ProducerID, answer.ProducerEpoch, map[place]int32{}
			return nil
		}
		err = errors.Join(err, client.Close())
	}
	p.failed, p.failedAt = fmt.Errorf("%w: reach Kafka at %v: %w", errNotSent, p.config.Brokers, err), time.Now()
	return p.failed
}

func (p *Producer) disconnect() {
	if p.client != nil {
		_ = p.client.Close() // no request is unfinished
		p.client = nil
	}
}

// connections holds the connections of a client so that they can be closed at once. Sarama closes a connection only after its responses have arrived.
type connections struct {
	dialer dialer
	mu     sync.Mutex
	open   []net.Conn
}

// Dial implements proxy.Dialer.
func (c *connections) Dial(network, address string) (net.Conn, error) {
	conn, err := c.dialer.Dial(network, address)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open = append(c.open, conn)
	}
	return conn, err
}

// abort closes all connections. The operating system drops unsent data, and an incomplete request has no effect.
func (c *connections) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // if this fails, the unsent data may still be sent
		}
		_ = conn.Close() // the client may have closed the connection before
	}
	c.open = nil
}
