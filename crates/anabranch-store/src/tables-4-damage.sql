-- The replica's file, version 4: what tells damage from data. See docs/src/damage.md.

-- 1: a part of its history is missing, so that nothing can be written; 2: nor can its state be believed.
ALTER TABLE entities ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entities ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;    -- digest of all other columns
-- The second way to an entity, should the first one be damaged.
CREATE INDEX entities_by_id ON entities (id, space);

-- For tables that are read whole: the digests of all rows, added up (exclusive or).
CREATE TABLE seals (
    name TEXT PRIMARY KEY,
    sum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Entities that were found damaged, until what is missing has come back, or somebody has accepted that it is lost.
CREATE TABLE damage (
    entity INTEGER PRIMARY KEY REFERENCES entities (key) ON DELETE CASCADE,
    reason TEXT NOT NULL,
    found_at INTEGER NOT NULL,             -- milliseconds
    heads BLOB NOT NULL,                   -- of what is left
    missing BLOB NOT NULL,                 -- hashes of the changes that it waits for, 32 bytes each
    lost TEXT NOT NULL                     -- JSON: changes that no server had
) STRICT;
