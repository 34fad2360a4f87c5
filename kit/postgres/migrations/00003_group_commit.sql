-- +goose Up

-- Units of work are committed together, in one statement for each table. What must hold for a row is demanded by the statement itself,
-- so that it fails with the sentence, or with the code by which a conflict is told apart.
-- +goose StatementBegin
CREATE FUNCTION demand(ok boolean, code text, message text) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN IF NOT ok THEN RAISE EXCEPTION '%', message USING ERRCODE = code; END IF; RETURN true; END $$;
-- +goose StatementEnd

-- Where an instance stands is written with its facts; everything else about it is in them.
ALTER TABLE saga_rows DROP COLUMN state;

-- Rows of the inbox come in the order of their age: a summary of each range of blocks finds the old ones, and costs a writer nothing.
DROP INDEX inbox_by_age;
CREATE INDEX inbox_by_age ON inbox USING brin (received_at) WITH (pages_per_range = 32);

-- +goose Down
DROP INDEX inbox_by_age;
CREATE INDEX inbox_by_age ON inbox (received_at);
ALTER TABLE saga_rows ADD COLUMN state json NOT NULL DEFAULT '{}';
DROP FUNCTION demand(boolean, text, text);
