// A member whose handlers are unavailable leaves its group, for example when this process alone does not reach the database: otherwise the messages of its partitions
// wait although other members can handle them. TestMemberWithUnavailableHandlersLeaves and TestMemberWithAllPartitionsLeaves show it.

package keyordered

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
)

// errUnavailable says that a member has left its group because its handlers are unavailable.
var errUnavailable = errors.New("the handlers are unavailable")

// leaveIfUnavailable ends a session, and makes the member leave its group, when the handlers are unavailable and the group has other members. It returns then, or when ctx is
// done.
func (h *handler) leaveIfUnavailable(ctx context.Context, end func()) {
	for !h.config.Unavailable() || !h.hasOthers() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
	if ctx.Err() == nil {
		h.leaves.Store(true)
		end()
	}
}

// hasOthers tells whether the group has other members. It returns false if the coordinator does not answer.
func (h *handler) hasOthers() bool {
	coordinator, err := h.client.Coordinator(h.config.Group)
	if err != nil {
		return false
	}
	described, err := coordinator.DescribeGroups(&sarama.DescribeGroupsRequest{Groups: []string{h.config.Group}})
	if err != nil {
		return false
	}
	return len(described.Groups) == 1 && described.Groups[0].Err == sarama.ErrNoError && len(described.Groups[0].Members) > 1
}

// waitUntilAvailable waits outside the group until the handlers are available.
func (s *Subscriber) waitUntilAvailable(ctx context.Context, fields watermill.LogFields) {
	s.config.Logger.Info("Handlers are unavailable, leaving the partitions to other members", fields)
	for s.config.Unavailable() && pause(ctx) {
	}
}
