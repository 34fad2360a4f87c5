// A member whose handlers cannot work, as when this process alone does not reach the database: the messages of its partitions would wait for as long, although other
// members could handle them. TestMemberWhoseHandlersCannotWorkLeaves shows it.

package keyordered

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
)

// errUnable says that a member has left its group because the handlers cannot work.
var errUnable = errors.New("the handlers cannot work")

// leave ends a session that has some of the partitions, and has the member leave the group, when the handlers cannot work. It returns then, or when ctx is done.
func (h *handler) leave(ctx context.Context, end func()) {
	for !h.config.Unable() {
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

// untilAble waits outside the group until the handlers can work.
func (s *Subscriber) untilAble(ctx context.Context, fields watermill.LogFields) {
	s.config.Logger.Info("Handlers cannot work, leaving the partitions to other members", fields)
	for s.config.Unable() && pause(ctx) {
	}
}
