package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/embedded"
	"github.com/millrace/millrace/kit/postgres"
	"github.com/millrace/millrace/kit/postgres/migrations"
)

// schema is the migrations of the kit and of the service.
func (d *Service) schema() migrations.Schema { return migrations.New(d.Migrations) }

// startStorage starts the embedded PostgreSQL if POSTGRES_DSN is not set, connects to the database and migrates the schema.
func (s *Instance) startStorage(ctx context.Context, logf func(string)) (err error) {
	s.DSN = s.config.PostgresDSN
	if s.DSN == "" {
		if s.postgres, err = embedded.StartPostgres(ctx, s.config.DataDir, logf); err != nil {
			return err
		}
		s.onStop(func(context.Context) error { return s.postgres.Stop() })
		s.DSN = s.postgres.DSN
	}
	if s.db, err = postgres.Open(s.DSN, s.config.PostgresPool); err != nil {
		return fmt.Errorf("POSTGRES_DSN: %w", err)
	}
	s.onStop(func(context.Context) error { return s.db.Close() })
	if err := postgres.Wait(ctx, s.db, s.config.PostgresWait, s.log); err != nil {
		return err
	}
	if err := postgres.CheckSession(ctx, s.DSN); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.startClock(ctx)
}

func (s *Instance) migrate(ctx context.Context) error {
	if !s.config.Migrate {
		return s.def.schema().Check(ctx, s.db.DB)
	}
	return s.def.schema().Up(ctx, s.db.DB)
}

// brokerTime is the time of the database without CLOCK_OFFSET: Kafka refuses timestamps in the future.
func (s *Instance) brokerTime() time.Time { return s.brokerClock() }

// startClock makes this instance use the time of the database.
func (s *Instance) startClock(ctx context.Context) error {
	local := func() time.Time { return time.Now().Add(s.config.ClockOffset) }
	clock := postgres.NewClock(s.db, local, s.log)
	if err := clock.Sync(ctx); err != nil {
		return err
	}
	s.clock, s.brokerClock = clock.Now, clock.Real
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.onStop(func(context.Context) error { cancel(); return nil })
	go clock.Run(ctx)
	return nil
}
