package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/audit"
	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/saga"
)

// audit checks the stored data of a service. The service may be running or stopped.
func (p *Program) audit(ctx context.Context) (report cli.Audit, err error) {
	dsn, stop, err := p.runningDatabase(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	found, err := p.def.Audit(ctx, dsn, p.config.PostgresWait, p.log)
	report.Consistent = found.Consistent
	for _, r := range found.Checks {
		report.Checks = append(report.Checks, cli.AuditCheck(r))
	}
	return report, err
}

// Audit checks the data that this service has stored in the database at dsn. It waits for at most wait until the database is available, and
// returns an error if the schema is not up to date. Inconsistent data is reported in the report, not as an error.
func (d *Service) Audit(ctx context.Context, dsn string, wait time.Duration, log *slog.Logger) (report audit.Report, err error) {
	db, err := postgres.Open(dsn, 2)
	if err != nil {
		return report, fmt.Errorf("POSTGRES_DSN: %w", err)
	}
	defer db.Close() //nolint:errcheck // nothing is pending
	if err := postgres.Wait(ctx, db, wait, log); err != nil {
		return report, err
	}
	if err := d.schema().Check(ctx, db.DB); err != nil {
		return report, err
	}
	var types []aggregate.Types
	for _, t := range d.types() {
		types = append(types, t)
	}
	return audit.Run(ctx, db, d.EventStore(db, aggregate.Merge(types...)), []audit.Derived{audit.Snapshots(d.snapshots()), sagaRows, d.sagaVersions()})
}

// sagaVersions checks that each active saga has a version of its definition that is registered.
func (d *Service) sagaVersions() audit.Derived {
	return audit.Derived{
		Check: "sagas: versions of active ones are registered",
		Rows:  `SELECT 'sagas/' || saga_id, json_build_object('status', status)::text FROM saga_instances WHERE status NOT IN ('` + string(saga.StatusCompleted) + `', '` + string(saga.StatusCompensated) + `')`,
		Compare: func(_ []byte, events []cqrs.Event) error {
			state := saga.Rebuild("", events)
			if v := (readmodel.SagaVersion{Definition: state.Definition, Version: state.DefVersion}); !d.registered(v) && !state.Status.Ended() {
				return fmt.Errorf("it runs by version %d of %s, which is not registered", v.Version, v.Definition)
			}
			return nil
		},
	}
}

// sagaRows compares the rows of the list of sagas with the streams of the sagas. A row is written when the status of a saga changes, so only the
// version of a row may be older than its stream.
var sagaRows = audit.Derived{
	Check: "sagas: rows equal to the fold of their streams",
	Rows: `SELECT stream, max(value) FROM (
		SELECT 'sagas/' || saga_id, json_build_object('definition', definition, 'subject', subject, 'status', status, 'version', version,
			'waits', (SELECT json_object_agg(step, key) FROM saga_waits w WHERE w.saga_id = s.saga_id))::text FROM saga_instances s
		UNION ALL SELECT DISTINCT stream, NULL FROM events WHERE starts_with(stream, 'sagas/')) AS either(stream, value) GROUP BY stream`,
	Compare: func(row []byte, events []cqrs.Event) error {
		if row == nil {
			return errors.New("a stream without a row")
		}
		var listed struct {
			Definition, Subject string
			Status              saga.Status
			Version             int
			Waits               map[string]string
		}
		if err := json.Unmarshal(row, &listed); err != nil {
			return err
		}
		if listed.Version > len(events) {
			return fmt.Errorf("a row of version %d, of a stream of %d events", listed.Version, len(events))
		}
		then, now := saga.Rebuild("", events[:listed.Version]), saga.Rebuild("", events)
		for _, state := range []saga.State{then, now} {
			if listed.Definition != state.Definition || listed.Subject != state.Subject || listed.Status != state.Status {
				return fmt.Errorf("the row says %s of %s for %s; the events say %s of %s for %s", listed.Status, listed.Definition, listed.Subject,
					state.Status, state.Definition, state.Subject)
			}
		}
		waits, state := map[string]string{}, saga.Rebuild("", events)
		for step, c := range state.Awaits {
			if c.Key != "" && state.Step(step).Status == saga.StepStatusInProgress {
				waits[step] = c.Key
			}
		}
		if !maps.Equal(waits, listed.Waits) {
			return fmt.Errorf("it waits for events of these keys: %v; the rows say %v", waits, listed.Waits)
		}
		return nil
	},
}
