-- What Debezium reads of the outbox: rows that are ready. One that becomes due is a new row in the eyes of the publication. The old row has to
-- be in the log for that. Needs wal_level = logical.
ALTER TABLE outbox REPLICA IDENTITY FULL;
CREATE PUBLICATION millrace_outbox FOR TABLE outbox WHERE (due_at IS NULL) WITH (publish = 'insert, update');
