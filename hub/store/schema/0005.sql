-- Who may operate the hub, and what they did. Times are hub UTC in milliseconds.

CREATE TABLE token (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),  -- SHA-256 of the secret
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    revoked_ms INTEGER                 -- NULL while it counts
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    token TEXT NOT NULL,               -- id; empty for the hub itself and for its own machine
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    asked TEXT NOT NULL,               -- JSON, bounded
    outcome TEXT NOT NULL,
    pruned_until INTEGER               -- NULL except where a row says that those up to n went
) STRICT;
CREATE INDEX audit_prunes ON audit (pruned_until) WHERE pruned_until IS NOT NULL;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit is not changed');
END;

-- REPLACE deletes without asking the trigger below.
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE n = NEW.n) BEGIN
    SELECT RAISE(ABORT, 'the audit is not changed');
END;

-- A row goes only after another has said so, in the same transaction or before.
CREATE TRIGGER audit_is_pruned_openly BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM audit WHERE pruned_until >= OLD.n AND n > OLD.n) BEGIN
    SELECT RAISE(ABORT, 'the audit is pruned only after a row that says so');
END;
