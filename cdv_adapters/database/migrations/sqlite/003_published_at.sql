-- When the stream got the entry; NULL while it waits, and for what was published by code that did not note this.
ALTER TABLE op_log ADD COLUMN published_at INTEGER;
