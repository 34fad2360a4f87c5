package txn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// An error of PostgreSQL is permanent unless its class says otherwise: no loop may retry it.
func TestErrorClassesOfPostgreSQL(t *testing.T) {
	statements := map[cqrs.Kind][]string{
		cqrs.KindTransient: {"08006", "08P01", "40003", "53100", "53300", "55P03", "55006", "57014", "57P01", "57P03", "58030", "25006", "25P03", "26000"},
		cqrs.KindConflict:  {"40001", "40P01", "MR002"},
		cqrs.KindPermanent: {"22021", "22P02", "22P05", "22001", "54000", "23502", "23503", "23505", "23514", "42P01", "42501", "25P02", "0A000", "P0001", "XX000", ""},
		cqrs.KindUnknown:   {"MR001"},
	}
	for kind, codes := range statements {
		for _, code := range codes {
			err := Classify(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code, Message: "message"}), "write")
			require.Equal(t, kind, cqrs.KindOf(err), "%s: %v", code, err)
		}
	}
	require.Equal(t, cqrs.KindConflict, cqrs.KindOf(Classify(&pgconn.PgError{Code: "23505", ConstraintName: "events_pkey"}, "append")))
	require.Equal(t, cqrs.KindTransient, cqrs.KindOf(Classify(&pgconn.PgError{Code: "0A000", Message: "cached plan must not change result type"}, "read")))
	require.Equal(t, cqrs.KindTransient, cqrs.KindOf(Classify(io.ErrUnexpectedEOF, "read")))
	require.Equal(t, cqrs.KindShuttingDown, cqrs.KindOf(Classify(context.Canceled, "read")))
	require.Equal(t, cqrs.KindUnknown, cqrs.KindOf(Classify(errors.New("failed to encode args"), "read")))
	require.ErrorIs(t, Classify(&pgconn.PgError{Code: "54000"}, "append"), cqrs.ErrRejected)
}

// Only a database that is away fails all elements of a batch.
func TestUnavailableIsTheDatabaseNotTheStatement(t *testing.T) {
	for _, code := range []string{"08006", "53100", "53300", "57P01", "57P02", "57P03", "58030", "25006"} {
		require.True(t, IsUnavailable(Classify(&pgconn.PgError{Code: code}, "read")), code)
	}
	for _, code := range []string{"22021", "54000", "55P03", "57014", "40001", "23505", "MR001", ""} {
		require.False(t, IsUnavailable(Classify(&pgconn.PgError{Code: code}, "read")), code)
	}
	require.True(t, IsUnavailable(Classify(io.EOF, "read")))
	require.False(t, IsUnavailable(nil))
	require.False(t, IsUnavailable(errors.New("failed to encode args")))
}
