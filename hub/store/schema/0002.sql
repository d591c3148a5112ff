-- What the live entries of the hub's own documents are, so that a damaged one can be made anew.
CREATE TABLE authored (
    document TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (document, key)
) STRICT, WITHOUT ROWID;

-- Documents that could not be read any more, as they were found.
CREATE TABLE quarantine (
    n INTEGER PRIMARY KEY,
    document TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    state BLOB NOT NULL,
    vector BLOB NOT NULL,
    absorbed BLOB NOT NULL,
    stored_ms INTEGER NOT NULL,
    found_ms INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
