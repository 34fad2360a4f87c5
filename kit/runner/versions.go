package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/postgres/readmodel"
	"github.com/millrace/millrace/kit/saga"
)

// versionsEvery is the time between two checks while active sagas have versions that are not registered.
const versionsEvery = time.Minute

// registered tells whether the service has a version of a saga's definition.
func (d *Service) registered(v readmodel.SagaVersion) bool {
	for _, s := range d.Sagas {
		if s.Name() == v.Definition && s.Version() == v.Version {
			return true
		}
	}
	return false
}

// unregistered returns an error that names each version of a definition that active sagas run by and the service does not have; nil if there is none.
func (d *Service) unregistered(open map[readmodel.SagaVersion]int) (err error) {
	for v, n := range open {
		if !d.registered(v) {
			err = errors.Join(err, fmt.Errorf("%d active sagas run by version %d of %s, which is not registered: their messages become dead letters; add that version to Sagas until they have ended: %w",
				n, v.Version, v.Definition, saga.ErrNotDefined))
		}
	}
	return err
}

// runVersionCheck looks for active sagas whose version of their definition is not registered, logs them, and reports them on /readyz until there are none.
func (s *Instance) runVersionCheck(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for said := false; ; {
			open, err := readmodel.NewSagas(s.db).Versions(ctx)
			missing := s.def.unregistered(open)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				s.log.Warn("cannot look for versions of sagas, retrying", "error", err)
			case missing == nil:
				s.versions.Store(nil)
				return
			case !said:
				said = true
				s.log.Error("active sagas have no definition", "error", missing)
			}
			if missing != nil {
				s.versions.Store(&missing)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(versionsEvery):
			}
		}
	}()
	s.onStop(func(context.Context) error { cancel(); <-done; return nil })
}
