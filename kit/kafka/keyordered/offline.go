// A member whose session has ended because it does not reach Kafka. Its partitions are not given up until it does, if the handlers can bear that another
// member has them too: each of the two handles the records of a key in their order, and refuses what was handled already, so the order of a key holds.
// TestMemberKeepsItsPartitionsWhileKafkaIsAway and kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

package keyordered

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
)

// offlineCheck is the pause between two attempts to reach the coordinator.
const offlineCheck = 500 * time.Millisecond

// hold keeps the partitions of a session from now on: to its end, or until the coordinator is reached after that. It returns how many partitions the client knows of
// the topic.
func (h *handler) hold(of sarama.ConsumerGroupSession) (known int) {
	session := of.Context()
	held, giveUp := context.WithCancel(context.WithoutCancel(session))
	h.held = held
	claims := len(of.Claims()[h.topic])
	partitions, err := h.client.Partitions(h.topic)
	given := make([]bool, len(partitions))
	for _, partition := range of.Claims()[h.topic] {
		if int(partition) < len(given) {
			given[partition] = true
		}
	}
	h.mu.Lock()
	h.given[h.topic] = given
	delete(h.whole, h.topic)
	if err == nil && claims == len(partitions) {
		h.whole[h.topic] = held
	}
	h.mu.Unlock()
	go func() {
		defer giveUp()
		<-session.Done()
		if claims == 0 || !h.config.KeepOffline() || ended(context.Cause(session)) {
			return
		}
		fields := watermill.LogFields{"topic": h.topic, "group": h.config.Group}
		said := false
		for reached := 0; reached < 2; { // a broker that stops still answers for a moment
			if h.reaches() {
				reached++
			} else if reached = 0; !said {
				said = true
				h.config.Logger.Info("Kafka is away, going on with what was received", fields)
			}
			select {
			case <-h.ctx.Done():
				return
			case <-time.After(offlineCheck):
			}
		}
	}()
	return len(partitions)
}

// reaches tells whether the member reaches its coordinator, or is to end anyway.
func (h *handler) reaches() bool {
	reached := make(chan error, 1)
	go func() { reached <- h.client.RefreshCoordinator(h.config.Group) }()
	select {
	case err := <-reached:
		answer, answered := errors.AsType[sarama.KError](err) // for example that the user may not read the group any more
		return err == nil || errors.Is(err, sarama.ErrClosedClient) || answered && answer != sarama.ErrConsumerCoordinatorNotAvailable
	case <-h.ctx.Done():
		return true
	}
}

// ended tells whether the coordinator, or this process, has ended a session for this reason.
func ended(cause error) bool {
	for _, by := range []error{sarama.ErrRebalanceInProgress, sarama.ErrUnknownMemberId, sarama.ErrIllegalGeneration, sarama.ErrFencedInstancedId, context.Canceled} {
		if errors.Is(cause, by) {
			return true
		}
	}
	return false
}
