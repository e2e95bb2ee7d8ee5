-- When the stream got the entry; NULL while it waits, and for what was published by code that did not note this. Code of
-- before goes on writing.
ALTER TABLE op_log ADD COLUMN published_at timestamptz;

-- rollback: loses when entries were published, so that they count from when they occurred again.
ALTER TABLE op_log DROP COLUMN published_at;
DELETE FROM schema_migrations WHERE version = 3;
