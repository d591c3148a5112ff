-- What other systems are still to be told (hub/export).

CREATE TABLE outbox (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    content TEXT NOT NULL              -- JSON, bounded
) STRICT;

CREATE TABLE outbox_place (
    url TEXT NOT NULL PRIMARY KEY,
    told_n INTEGER NOT NULL,           -- events up to here need not be told there any more
    attempts INTEGER NOT NULL,         -- at the next one
    first_ms INTEGER NOT NULL,         -- when that was tried first; 0 for not yet
    due_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was looked at when events were gathered last.
CREATE TABLE outbox_look (
    only INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    audit_n INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox_verdict (
    deployment TEXT NOT NULL,
    device TEXT NOT NULL,
    verdict TEXT NOT NULL,
    PRIMARY KEY (deployment, device)
) STRICT, WITHOUT ROWID;
