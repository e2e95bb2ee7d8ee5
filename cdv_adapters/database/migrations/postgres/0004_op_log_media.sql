-- The few events of media among many of records: the relay looks for the oldest of them when their stream has dropped one.
-- Writes wait while it is built, about a second for each million entries. Where that is too long, make it beforehand, with
-- CREATE INDEX CONCURRENTLY and this name and definition.
CREATE INDEX IF NOT EXISTS op_log_media ON op_log (sequence) WHERE starts_with(subject, 'cdv.media.');

-- rollback: loses nothing.
DROP INDEX op_log_media;
DELETE FROM schema_migrations WHERE version = 4;
