-- The replica's file, version 2: what needs a person's eye, references, and purged entities.

ALTER TABLE entities ADD COLUMN items INTEGER NOT NULL DEFAULT 0;  -- what waits for a person
ALTER TABLE entities ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;

-- Contested values, broken rules and orphaned references: derived from the documents, the same on every
-- replica that holds the same.
CREATE TABLE conflicts (
    entity INTEGER NOT NULL REFERENCES entities (key),
    id BLOB NOT NULL,
    kind TEXT NOT NULL,                    -- values, rule or orphan
    open INTEGER NOT NULL,                 -- waits for a person
    field TEXT NOT NULL,                   -- with the path into it
    reason TEXT NOT NULL,                  -- the policy or the rule
    detail TEXT NOT NULL,                  -- JSON: the value that is shown, and all contenders
    PRIMARY KEY (entity, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX conflicts_open ON conflicts (entity) WHERE open = 1;

-- Which entity refers to which.
CREATE TABLE links (
    entity INTEGER NOT NULL REFERENCES entities (key),
    field TEXT NOT NULL,
    target TEXT NOT NULL,                  -- the id of an entity of the same space, which may not be here
    PRIMARY KEY (entity, field)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_target ON links (target);

-- The changes of a transaction stay together.
CREATE INDEX changes_by_transaction ON changes (txn) WHERE txn IS NOT NULL;
