-- The trace context (W3C) of the request that made the entry; NULL if it had none. Code of before goes on writing.
ALTER TABLE op_log ADD COLUMN traceparent text COLLATE "C";

-- rollback: loses nothing but the traces of events that still wait.
ALTER TABLE op_log DROP COLUMN traceparent;
DELETE FROM schema_migrations WHERE version = 2;
