-- Times are integers: microseconds since 1970-01-01T00:00:00Z. Identifiers compare byte for byte (BINARY collation).

CREATE TABLE accounts (
    did TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

-- `value`: canonical JSON, UTF-8, exactly as the record was accepted.
CREATE TABLE records (
    did TEXT NOT NULL REFERENCES accounts (did),
    collection TEXT NOT NULL,
    rkey TEXT NOT NULL,
    cid TEXT NOT NULL,
    value BLOB NOT NULL,
    indexed_at INTEGER NOT NULL,
    schema_version TEXT NOT NULL,
    created_at INTEGER,
    PRIMARY KEY (did, collection, rkey)
);
-- Listings read these backwards and never sort. Unique, so that a cursor names one place in a DID's whole listing.
CREATE UNIQUE INDEX records_by_time ON records (did, indexed_at, rkey);
CREATE INDEX records_by_collection ON records (did, collection, indexed_at, rkey);

CREATE TABLE replies (
    did TEXT NOT NULL REFERENCES accounts (did),
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    reply BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (did, key)
) WITHOUT ROWID;
CREATE INDEX replies_by_expiry ON replies (expires_at);

CREATE TABLE assets (
    asset_id TEXT PRIMARY KEY,
    did TEXT NOT NULL REFERENCES accounts (did),
    mime_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    filename TEXT,
    announced_checksum TEXT,
    checksum TEXT,
    state TEXT NOT NULL CHECK (state IN ('pending', 'finalized', 'expired')),
    swept INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX assets_to_sweep ON assets (expires_at, asset_id) WHERE swept = 0;

-- AUTOINCREMENT: a sequence is never given twice. `stream_sequence` is NULL while the entry waits to be published.
CREATE TABLE op_log (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    did TEXT NOT NULL REFERENCES accounts (did),
    subject TEXT NOT NULL,
    envelope BLOB NOT NULL,
    occurred_at INTEGER NOT NULL,
    stream_sequence INTEGER
);
CREATE INDEX op_log_unpublished ON op_log (sequence, occurred_at) WHERE stream_sequence IS NULL;

-- One row at most: the relay that may publish.
CREATE TABLE relay_lease (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    owner TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);

CREATE TABLE stream_marks (
    name TEXT PRIMARY KEY,
    created TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    gaps INTEGER NOT NULL
) WITHOUT ROWID;
