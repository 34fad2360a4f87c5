-- +goose Up

-- The one clock of all instances. Tests set millrace.test_clock_ahead, for a database or a connection, to let weeks pass; it is no setting of
-- the service.
-- +goose StatementBegin
CREATE FUNCTION app_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT now() + COALESCE(NULLIF(current_setting('millrace.test_clock_ahead', true), ''), '0')::interval $$;
-- +goose StatementEnd

-- The same, of the moment and not of the transaction's begin.
-- +goose StatementBegin
CREATE FUNCTION app_clock() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS
$$ SELECT clock_timestamp() + COALESCE(NULLIF(current_setting('millrace.test_clock_ahead', true), ''), '0')::interval $$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$ DECLARE c record; BEGIN
    FOR c IN SELECT adrelid::regclass AS tab, attname FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum JOIN pg_class k ON k.oid = adrelid
        WHERE k.relnamespace = current_schema()::regnamespace AND pg_get_expr(adbin, adrelid) = 'now()' AND k.relname NOT LIKE 'goose%'
    LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT app_now()', c.tab, c.attname); END LOOP;
END $$;
-- +goose StatementEnd

-- Once rows turn over, new ones are in the pages that old ones have left, and a BRIN index no longer tells them apart: it read the whole table
-- to find nothing. Here the oldest rows are at one end, and the newest at the other.
DROP INDEX inbox_by_age;
CREATE INDEX inbox_by_age ON inbox (received_at);

-- +goose Down
DROP INDEX inbox_by_age;
CREATE INDEX inbox_by_age ON inbox USING brin (received_at) WITH (pages_per_range = 32);

-- +goose StatementBegin
DO $$ DECLARE c record; BEGIN
    FOR c IN SELECT adrelid::regclass AS tab, attname FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum JOIN pg_class k ON k.oid = adrelid
        WHERE k.relnamespace = current_schema()::regnamespace AND pg_get_expr(adbin, adrelid) = 'app_now()'
    LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT now()', c.tab, c.attname); END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION app_now(), app_clock();
