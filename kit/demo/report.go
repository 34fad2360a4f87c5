package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Report is the result of a check of the invariants, which must hold while no saga runs.
type Report struct{ Faults []string } // empty: consistent

// Consistent reports whether there are no faults.
func (r *Report) Consistent() bool { return len(r.Faults) == 0 }

// Fault adds a fault to the report.
func (r *Report) Fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// AtRest adds a fault for each saga that has not ended, and a fault if the outbox is not empty. It lists at most ten sagas of each status.
func (c Client) AtRest(ctx context.Context, r *Report) error {
	for _, status := range []string{"running", "compensating", "stuck"} {
		var page struct {
			Sagas []struct {
				ID      string `json:"saga_id"`
				Subject string `json:"subject"`
			} `json:"sagas"`
		}
		if err := c.Get(ctx, "/v1/sagas?limit=10&status="+status, &page); err != nil {
			return err
		}
		for _, s := range page.Sagas {
			r.Fault("saga %s of %s is %s", s.ID, s.Subject, status)
		}
	}
	var outbox struct{ Pending, Delayed, Parked int }
	if err := c.Get(ctx, "/v1/outbox", &outbox); err != nil {
		return err
	}
	if outbox.Pending+outbox.Delayed+outbox.Parked > 0 {
		r.Fault("the outbox holds %d messages that are due, %d delayed and %d parked ones", outbox.Pending, outbox.Delayed, outbox.Parked)
	}
	return nil
}

// Wait calls check until the invariants hold or the time patience is over, and returns the last report. The type of a report is *Report, or a pointer to a
// struct that embeds Report. If the last check failed with an error, Wait returns the error.
func Wait[R interface{ Consistent() bool }](ctx context.Context, patience time.Duration, check func(ctx context.Context) (R, error)) (last R, err error) {
	var failure error // of the last check
	err = Until(ctx, 250*time.Millisecond, patience, func() (bool, error) {
		last, failure = check(ctx)
		return failure == nil && last.Consistent(), nil
	})
	if errors.Is(err, ErrPatience) {
		return last, failure
	}
	return last, err
}

// Sentence returns the report in one line.
func (r *Report) Sentence() string {
	if r.Consistent() {
		return "balanced"
	}
	return "NOT balanced: " + strings.Join(r.Faults, "; ")
}
