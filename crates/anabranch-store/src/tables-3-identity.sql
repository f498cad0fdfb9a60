-- The replica's file, version 3, what identity needs: refusals as the server put them, and what has been taken out.

ALTER TABLE outbox ADD COLUMN code TEXT;                   -- of a parked change: why, as the server put it
ALTER TABLE outbox ADD COLUMN refused_at INTEGER;          -- milliseconds

-- Changes that were taken out of an entity's history, so that they do not come back from a peer.
CREATE TABLE refused (
    entity INTEGER NOT NULL REFERENCES entities (key),
    hash BLOB NOT NULL,
    kind TEXT NOT NULL,                    -- discarded, or rewritten: it is there under another name
    refused_at INTEGER NOT NULL,
    PRIMARY KEY (entity, hash)
) STRICT, WITHOUT ROWID;

-- Places of changes that were taken out of the log while a server's answer about them was awaited.
CREATE TABLE overtaken (
    seq INTEGER PRIMARY KEY
) STRICT;
