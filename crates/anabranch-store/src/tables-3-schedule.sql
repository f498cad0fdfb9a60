-- The replica's file, version 3: when to try again, and what never leaves.

ALTER TABLE remotes ADD COLUMN next_attempt_at INTEGER;    -- milliseconds
ALTER TABLE remotes ADD COLUMN server_asked_until INTEGER; -- Retry-After, as a time
ALTER TABLE remotes ADD COLUMN error_class TEXT;           -- of last_error
ALTER TABLE remotes ADD COLUMN clock_skew INTEGER;         -- the server's clock less this one's, milliseconds

-- Collections whose entities stay in this file, as the schema says.
CREATE TABLE local_collections (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
