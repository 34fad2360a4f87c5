// A member whose handlers are unavailable leaves its group, for example when this process alone does not reach the database: otherwise the messages of its partitions
// wait although other members can handle them. TestMemberWithUnavailableHandlersLeaves shows it.

package keyordered

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
)

// errUnavailable says that a member has left its group because its handlers are unavailable.
var errUnavailable = errors.New("the handlers are unavailable")

// leaveIfUnavailable ends a session that has some of the partitions, and makes the member leave its group, when the handlers become unavailable. It returns then, or when
// ctx is done.
func (h *handler) leaveIfUnavailable(ctx context.Context, end func()) {
	for !h.config.Unavailable() {
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

// waitUntilAvailable waits outside the group until the handlers are available.
func (s *Subscriber) waitUntilAvailable(ctx context.Context, fields watermill.LogFields) {
	s.config.Logger.Info("Handlers are unavailable, leaving the partitions to other members", fields)
	for s.config.Unavailable() && pause(ctx) {
	}
}
