-- The replica's file, version 3: first sync by segments, and subsets of a space's collections.

-- The segments of a first sync that is under way. It ends when the space gets its cursor.
CREATE TABLE first_syncs (
    remote INTEGER NOT NULL REFERENCES remotes (key),
    space INTEGER NOT NULL REFERENCES spaces (key),
    seq INTEGER NOT NULL,                  -- the place in the space's log that the segments go up to
    chain BLOB NOT NULL,
    cursor BLOB NOT NULL,                  -- from where to pull on
    PRIMARY KEY (remote, space)
) STRICT, WITHOUT ROWID;
CREATE TABLE first_sync_pieces (
    remote INTEGER NOT NULL,
    space INTEGER NOT NULL,
    place INTEGER NOT NULL,
    digest BLOB NOT NULL,
    collection TEXT NOT NULL,
    entities INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    applied INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (remote, space, place),
    FOREIGN KEY (remote, space) REFERENCES first_syncs (remote, space) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Entities whose rows were derived without a document. Their documents are looked at when they are first loaded,
-- or when there is nothing else to do.
CREATE TABLE unchecked (
    entity INTEGER PRIMARY KEY REFERENCES entities (key) ON DELETE CASCADE
) STRICT;

-- The collections of a space that are wanted of a remote. A space without rows is wanted whole.
CREATE TABLE subsets (
    remote INTEGER NOT NULL REFERENCES remotes (key),
    space INTEGER NOT NULL REFERENCES spaces (key),
    wanted TEXT,                           -- JSON list; NULL for all
    synced TEXT,                           -- what the cursor stands for, or stood for; NULL for all
    revision INTEGER NOT NULL,             -- how often what is wanted has been changed
    PRIMARY KEY (remote, space)
) STRICT, WITHOUT ROWID;
