-- The trace context (W3C) of the request that made the entry; NULL if it had none.
ALTER TABLE op_log ADD COLUMN traceparent TEXT;
