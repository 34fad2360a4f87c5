// A member whose session has ended because it cannot reach Kafka. It keeps its partitions until it reaches Kafka again, if KeepOffline allows that
// another member has them too: each of the two members handles the records of a key in order and rejects those that were handled before, so the order
// of a key is kept. TestMemberKeepsItsPartitionsWhileKafkaIsAway and kit/broker's TestLocalDeliveryKeepsKeyOrder show it.

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
		for reached := 0; reached < 2; { // twice in a row, because a broker that is stopping still answers for a moment
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

// reaches tells whether the member can reach its coordinator, or must end anyway.
func (h *handler) reaches() bool {
	reached := make(chan error, 1)
	go func() { reached <- h.client.RefreshCoordinator(h.config.Group) }()
	select {
	case err := <-reached:
		answer, answered := errors.AsType[sarama.KError](err) // for example that the user may no longer read the group
		return err == nil || errors.Is(err, sarama.ErrClosedClient) || answered && answer != sarama.ErrConsumerCoordinatorNotAvailable
	case <-h.ctx.Done():
		return true
	}
}

// ended tells whether the coordinator or this process has ended a session, according to the session's cause.
func ended(cause error) bool {
	for _, by := range []error{sarama.ErrRebalanceInProgress, sarama.ErrUnknownMemberId, sarama.ErrIllegalGeneration, sarama.ErrFencedInstancedId, context.Canceled} {
		if errors.Is(cause, by) {
			return true
		}
	}
	return false
}
