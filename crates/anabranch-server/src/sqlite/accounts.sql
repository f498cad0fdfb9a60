-- How much is kept, so that a quota can be asked for without adding everything up: the bytes of the changes, and 256
-- for each (ROW_BYTES in anabranch-core).
ALTER TABLE spaces ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entities ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE spaces SET bytes = (SELECT coalesce(sum(length(bytes) + 256), 0) FROM changes WHERE space = spaces.id);
UPDATE entities SET bytes = (
    SELECT coalesce(sum(length(c.bytes) + 256), 0) FROM changes c
    WHERE c.space = entities.space AND c.entity = entities.entity
);

-- Who has pushed how much, in all spaces together.
CREATE TABLE principals (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Whose replica it is: the principal of the session that first stored something for it. A replica is known by the
-- half of its id that its actors carry.
CREATE TABLE replicas (
    half BLOB PRIMARY KEY CHECK (length(half) = 8),
    principal INTEGER NOT NULL REFERENCES principals (id)
) STRICT, WITHOUT ROWID;
