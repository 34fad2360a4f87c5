// Delivery of a partition's messages. An offset is marked only after all records below it are acknowledged. TestPartitionFollowsTheModel and
// TestLostPartitionCommitsNoOffset show it.

package keyordered

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// fresh returns the message of an entry for one delivery.
func (p *partition) fresh(e *entry, record *sarama.ConsumerMessage) *message.Message {
	if e.message != nil {
		return e.message.Copy()
	}
	return p.unmarshal(record)
}

// key returns the key of a record. If the Key function panics, it returns the record's own key, so that the panic does not end the process.
func (p *partition) key(record *sarama.ConsumerMessage) (key string) {
	err := protect(func() error { key = p.config.Key(record); return nil })
	if err != nil {
		p.config.Logger.Error("Key function panicked", err, p.fields(record))
		return string(record.Key)
	}
	return key
}

// skips tells whether a record need not be delivered. If the Skip function panics, the record is delivered.
func (p *partition) skips(record *sarama.ConsumerMessage) (skip bool) {
	err := protect(func() error { skip = p.config.Skip(record); return nil })
	if err != nil {
		p.config.Logger.Error("Skip function panicked", err, p.fields(record))
	}
	return skip && err == nil
}

// MetadataError is the metadata key of the error of a record that could not be unmarshaled. The message's payload, key and headers are then the bytes
// of the record.
const MetadataError = "unmarshal_error"

// unmarshal converts a record into a message, whatever its bytes are. A record that is never delivered would block its key forever, and its partition
// after MaxAhead further records.
func (p *partition) unmarshal(record *sarama.ConsumerMessage) (msg *message.Message) {
	err := protect(func() (err error) {
		msg, err = p.config.Unmarshaler.Unmarshal(record)
		return err
	})
	if err == nil {
		return msg
	}
	p.config.Logger.Error("Cannot unmarshal a record", err, p.fields(record))
	msg = message.NewMessage(fmt.Sprintf("%s/%d/%d", p.topic, record.Partition, record.Offset), record.Value)
	for _, h := range record.Headers {
		msg.Metadata.Set(string(h.Key), string(h.Value))
	}
	msg.Metadata.Set("key", string(record.Key))
	msg.Metadata.Set(MetadataError, err.Error())
	return msg
}

func (p *partition) fields(record *sarama.ConsumerMessage) watermill.LogFields {
	return watermill.LogFields{"topic": p.topic, "partition": record.Partition, "offset": record.Offset}
}

// protect returns a panic of f as an error.
func protect(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v\n%s", value, debug.Stack())
		}
	}()
	return f()
}

// deliver delivers a record until it is acknowledged. If the partition stops or is lost first, it marks no offset, and reports an offered message as
// not acknowledged.
func (p *partition) deliver(e *entry, record *sarama.ConsumerMessage, acknowledged func()) {
	for pause := p.config.NackPause; ; pause = min(2*pause, 100*p.config.NackPause) {
		msg := p.fresh(e, record)
		ctx, cancel := context.WithCancel(p.base)
		if e.link != nil {
			ctx = p.config.WithLink(ctx, e.link)
		}
		if e.with != nil {
			ctx, e.with = e.with(ctx), nil
		}
		msg.SetContext(ctx)
		done := p.offer(msg)
		cancel()
		if done {
			acknowledged()
			p.finish(e)
			return
		}
		select {
		case <-p.stop.Done():
			if e.message != nil {
				p.bytes.give(e.size)
				p.ended(e, false)
			}
			return
		case <-time.After(pause):
		}
	}
}

// offer delivers a message once, and tells whether the message was acknowledged.
func (p *partition) offer(msg *message.Message) bool {
	if p.stop.Err() != nil { // the channel out may be closed
		return false
	}
	select {
	case p.out <- msg:
	case <-p.stop.Done():
		return false
	}
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		return false
	}
}

// finish records that an entry was acknowledged or its claim released.
func (p *partition) finish(e *entry) {
	if e.message != nil {
		defer p.ended(e, true)
	}
	p.mu.Lock()
	if p.lost {
		p.mu.Unlock()
		if e.message != nil {
			p.bytes.give(e.size)
		}
		return
	}
	e.record = nil
	p.inFlight--
	p.advance()
	p.next(e.key)
	p.mu.Unlock()
	p.bytes.give(e.size)
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// drain waits until the active records have ended or patience is over. Then it cancels the contexts of the remaining records and waits for them.
func (p *partition) drain(patience time.Duration, lose context.CancelFunc) {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.giveBack()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.running.Wait()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		lose()
		select {
		case <-done:
		case <-time.After(max(patience, p.config.Grace)):
			p.config.Logger.Error("Handlers are still active after their partition was lost", nil, map[string]any{"topic": p.topic})
		}
	}
	lose()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
	for _, e := range p.window {
		if e.record != nil {
			p.bytes.give(e.size)
		}
	}
}
