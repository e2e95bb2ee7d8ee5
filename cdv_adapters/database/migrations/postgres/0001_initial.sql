-- COLLATE "C": identifiers compare byte for byte. No foreign keys: each statement that writes a row makes its account
-- first, and accounts are never removed, so a check at every write would prove only that.

CREATE TABLE accounts (
    did text COLLATE "C" PRIMARY KEY,
    created_at timestamptz NOT NULL
);

-- `value` is json and not jsonb: readers get the very bytes that were accepted.
CREATE TABLE records (
    did text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,
    rkey text COLLATE "C" NOT NULL,
    cid text COLLATE "C" NOT NULL,
    value json NOT NULL,
    indexed_at timestamptz NOT NULL,
    schema_version text COLLATE "C" NOT NULL,
    created_at timestamptz,
    PRIMARY KEY (did, collection, rkey)
);
-- Listings read one of these from end to end and never sort. The first is unique, so that a cursor names one place.
CREATE UNIQUE INDEX records_by_time ON records (did, indexed_at DESC, rkey DESC);
CREATE INDEX records_by_collection ON records (did, collection, indexed_at DESC, rkey DESC);

CREATE TABLE replies (
    did text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    reply bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (did, key)
);
CREATE INDEX replies_by_expiry ON replies (expires_at);

CREATE TABLE assets (
    asset_id text COLLATE "C" PRIMARY KEY,
    did text COLLATE "C" NOT NULL,
    mime_type text NOT NULL,
    size_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    filename text,
    announced_checksum text,
    checksum text,
    state text NOT NULL CHECK (state IN ('pending', 'finalized', 'expired')),
    swept boolean NOT NULL DEFAULT false
);
CREATE INDEX assets_to_sweep ON assets (expires_at, asset_id) WHERE NOT swept;

-- CACHE 1: a session that kept numbers in reserve would hand out old ones late, and the order per DID would be lost.
-- `stream_sequence` is NULL while the entry waits to be published.
CREATE TABLE op_log (
    sequence bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    event_id text COLLATE "C" NOT NULL UNIQUE,
    did text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    envelope json NOT NULL,
    occurred_at timestamptz NOT NULL,
    stream_sequence bigint
);
-- INCLUDE: the backlog's size and age are read from the index alone.
CREATE INDEX op_log_unpublished ON op_log (sequence) INCLUDE (occurred_at) WHERE stream_sequence IS NULL;

-- One row at most: the relay that may publish.
CREATE TABLE relay_lease (
    id integer PRIMARY KEY CHECK (id = 1),
    owner text NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE stream_marks (
    name text COLLATE "C" PRIMARY KEY,
    created text NOT NULL,
    last_sequence bigint NOT NULL,
    gaps bigint NOT NULL
);

-- rollback: loses every record, and is here for a first installation that went wrong.
DROP TABLE accounts, records, replies, assets, op_log, relay_lease, stream_marks;
DELETE FROM schema_migrations WHERE version = 1;
