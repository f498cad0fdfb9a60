-- The replica's file, version 1. See docs/src/storage-format.md.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE spaces (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- What the application reads: one row per entity, in the same transaction as its changes.
CREATE TABLE entities (
    key INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES spaces (key),
    id TEXT NOT NULL,
    collection TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT '{}',      -- JSON, contested values settled by policy
    digest BLOB NOT NULL DEFAULT x'',      -- of state, deletion and contests
    heads BLOB NOT NULL DEFAULT x'',       -- 32 bytes each
    created_at INTEGER NOT NULL DEFAULT 0, -- milliseconds
    updated_at INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    born INTEGER NOT NULL DEFAULT 0,       -- 0 while only fragments of its history are here
    pending INTEGER NOT NULL DEFAULT 0,    -- changes in the outbox
    dirty_fields TEXT NOT NULL DEFAULT '[]',
    conflicts INTEGER NOT NULL DEFAULT 0,  -- contested fields
    last_sync_at INTEGER,
    log_bytes INTEGER NOT NULL DEFAULT 0,  -- of its rows in changes
    UNIQUE (space, id)
) STRICT;
CREATE INDEX entities_by_update ON entities (collection, updated_at);
CREATE INDEX entities_pending ON entities (pending) WHERE pending > 0;
CREATE INDEX entities_to_compact ON entities (log_bytes) WHERE log_bytes > 16384;

-- Folded documents, apart from the rows that every edit rewrites.
CREATE TABLE snapshots (
    entity INTEGER PRIMARY KEY REFERENCES entities (key),
    heads BLOB NOT NULL,
    document BLOB NOT NULL
) STRICT;

CREATE TABLE actors (
    key INTEGER PRIMARY KEY,
    actor BLOB NOT NULL UNIQUE
) STRICT;

-- The change log. A row is an Automerge change; it is never rewritten, only folded into a snapshot.
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entity INTEGER NOT NULL REFERENCES entities (key),
    hash BLOB NOT NULL,
    actor INTEGER NOT NULL REFERENCES actors (key),
    actor_seq INTEGER NOT NULL,
    txn BLOB,
    stamp INTEGER NOT NULL,
    origin TEXT NOT NULL,                  -- local, remote or peer
    bytes BLOB NOT NULL,
    UNIQUE (entity, hash),
    UNIQUE (entity, actor, actor_seq)
) STRICT;

CREATE TABLE remotes (
    key INTEGER PRIMARY KEY,
    url TEXT UNIQUE,
    lineage BLOB,
    failures INTEGER NOT NULL DEFAULT 0,
    last_error TEXT
) STRICT;
-- Whatever is written before a server is known waits for the first one.
INSERT INTO remotes (key) VALUES (1);

CREATE TABLE outbox (
    remote INTEGER NOT NULL REFERENCES remotes (key),
    change INTEGER NOT NULL REFERENCES changes (seq),
    entity INTEGER NOT NULL REFERENCES entities (key),
    state TEXT NOT NULL DEFAULT 'pending', -- pending or parked
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0, -- milliseconds
    last_error TEXT,
    PRIMARY KEY (remote, change)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_by_entity ON outbox (entity);
CREATE INDEX outbox_by_change ON outbox (change);
-- What keeps its entity from being pushed: few rows, looked at for every page.
CREATE INDEX outbox_blocking ON outbox (remote, entity) WHERE state = 'parked' OR not_before > 0;

CREATE TABLE sync_state (
    remote INTEGER NOT NULL REFERENCES remotes (key),
    space INTEGER NOT NULL REFERENCES spaces (key),
    cursor BLOB,
    ack_seq INTEGER,
    ack_chain BLOB,
    last_success_at INTEGER,
    PRIMARY KEY (remote, space)
) STRICT, WITHOUT ROWID;

-- Foreign changes whose dependencies have not come yet. Bounded.
CREATE TABLE orphans (
    entity INTEGER NOT NULL REFERENCES entities (key),
    hash BLOB NOT NULL,
    origin TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    txn BLOB,
    bytes BLOB NOT NULL,
    PRIMARY KEY (entity, hash)
) STRICT;

-- Foreign changes that were refused, with the reason.
CREATE TABLE quarantine (
    entity INTEGER NOT NULL REFERENCES entities (key),
    hash BLOB NOT NULL,
    reason TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (entity, hash)
) STRICT;
