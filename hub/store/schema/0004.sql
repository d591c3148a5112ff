-- Who belongs to the fleet. Times are hub UTC in milliseconds. No secret is kept, only hashes.

CREATE TABLE claim (
    id TEXT NOT NULL PRIMARY KEY,
    secret_hash BLOB NOT NULL UNIQUE,  -- SHA-256
    device_class TEXT NOT NULL,
    device TEXT NOT NULL,              -- empty for any
    uses_count INTEGER NOT NULL,
    spent_count INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    is_withdrawn INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE enrolment (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,           -- half of the SHA-256 of the public key, in hex
    device TEXT NOT NULL,
    device_class TEXT NOT NULL,
    csr BLOB NOT NULL,                 -- DER
    nonce_hash BLOB NOT NULL,          -- SHA-256
    state TEXT NOT NULL,
    asked_ms INTEGER NOT NULL,
    accepted_ms INTEGER,
    issued_ms INTEGER,
    ended_ms INTEGER,
    reason TEXT NOT NULL,
    claim TEXT NOT NULL
) STRICT;
CREATE INDEX enrolment_by_state ON enrolment (state, asked_ms);
CREATE INDEX enrolment_by_device ON enrolment (device);

-- The key that a device speaks with, and its newest certificate.
CREATE TABLE identity (
    device TEXT NOT NULL PRIMARY KEY,
    device_class TEXT NOT NULL,
    enrolment TEXT NOT NULL,
    key_digest BLOB NOT NULL,          -- SHA-256 of the public key
    certificate BLOB NOT NULL,         -- PEM
    not_before_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER                 -- NULL while it counts
) STRICT, WITHOUT ROWID;

-- Every certificate that has not expired, for the list of revoked ones.
CREATE TABLE certificate (
    serial BLOB NOT NULL PRIMARY KEY,  -- big-endian
    device TEXT NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER                 -- NULL while it counts
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_by_device ON certificate (device);
