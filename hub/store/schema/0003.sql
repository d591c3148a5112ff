-- Metadata of The Update Framework as it is served: every root, and the last few of each other role.
CREATE TABLE signed (
    role TEXT NOT NULL,
    version INTEGER NOT NULL,
    content BLOB NOT NULL,
    stored_ms INTEGER NOT NULL,
    PRIMARY KEY (role, version)
) STRICT, WITHOUT ROWID;
