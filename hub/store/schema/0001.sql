-- What the hub knows and cannot work out again. Times are hub UTC in milliseconds.
-- Frozen once released: a change is one more file with the next number.

CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    first_seen_ms INTEGER NOT NULL,
    heard_ms INTEGER NOT NULL,       -- last frame, to within a few minutes
    stray_count INTEGER NOT NULL     -- acknowledgements of deployments that this hub does not know
) STRICT;

-- Followed documents (dev, tel) and authored ones (des, grp): sync.replica.Holding.
CREATE TABLE document (
    n INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    state BLOB NOT NULL,
    vector BLOB NOT NULL,            -- MessagePack {client id: clock}, by client id
    absorbed BLOB NOT NULL,          -- empty, or MessagePack [[epoch, vector], ...]
    stored_ms INTEGER NOT NULL
) STRICT;

-- Every acknowledgement ever seen (sync.records.Ack): it outlives the document that carried it.
CREATE TABLE seen (
    deployment TEXT NOT NULL,
    device INTEGER NOT NULL,
    stage TEXT NOT NULL,             -- the letter
    record BLOB NOT NULL,
    seen_at_ms INTEGER NOT NULL,     -- the first time
    PRIMARY KEY (deployment, device, stage)
) STRICT, WITHOUT ROWID;

-- Contacts of a device (sync.contacts): where its clock stood when frames crossed.
CREATE TABLE contact (
    device INTEGER PRIMARY KEY,
    contacts BLOB NOT NULL
) STRICT;

-- What a device last said it holds of a document that the hub writes.
CREATE TABLE receipt (
    device INTEGER NOT NULL,
    document TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    vector BLOB NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (device, document)
) STRICT, WITHOUT ROWID;

CREATE TABLE presence (
    device INTEGER PRIMARY KEY,
    is_online INTEGER NOT NULL,
    birth INTEGER NOT NULL,
    heard_ms INTEGER NOT NULL,
    grace_ms INTEGER NOT NULL        -- how late its death may be heard
) STRICT;

CREATE TABLE presence_log (
    n INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    is_online INTEGER NOT NULL,
    birth INTEGER NOT NULL
) STRICT;
CREATE INDEX presence_log_by_device ON presence_log (device, at_ms);

-- When the hub itself was connected to the broker. Outside these spans no presence is known.
CREATE TABLE listening (
    n INTEGER PRIMARY KEY,
    from_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,       -- last moment at which it certainly was
    is_open INTEGER NOT NULL
) STRICT;

-- What devices did wrong, by the topic it came on.
CREATE TABLE offence (
    device TEXT NOT NULL,
    code TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (device, code)
) STRICT, WITHOUT ROWID;

CREATE TABLE release (
    n INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    component TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest BLOB NOT NULL,          -- canonical bytes, whose SHA-256 is the digest
    created_ms INTEGER NOT NULL,
    UNIQUE (component, version)
) STRICT;

CREATE TABLE deployment (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    release BLOB NOT NULL REFERENCES release (digest),
    component TEXT NOT NULL,
    version TEXT NOT NULL,
    ordered INTEGER NOT NULL,        -- hybrid logical clock of the request
    fleet_group TEXT NOT NULL,       -- empty for a list of devices
    selector TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,     -- 0 for never
    requested_ms INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    cancelled_ms INTEGER             -- NULL unless it was
) STRICT;

-- Where a deployment stands in a document: what a state vector must cover to prove delivery.
CREATE TABLE written (
    document TEXT NOT NULL,
    deployment TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    client INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    gone_epoch INTEGER,              -- first epoch without it; NULL while it is there
    PRIMARY KEY (document, deployment)
) STRICT, WITHOUT ROWID;

-- The list that was fixed when the deployment was requested, and what state vectors say of it.
CREATE TABLE targeted (
    deployment TEXT NOT NULL,
    device INTEGER NOT NULL,
    covered_ms INTEGER,              -- first receipt that covers it
    missed_ms INTEGER,               -- last receipt that does not, before any that did
    missed_sent_ms INTEGER,          -- the earliest that that one can have been sent
    superseded_ms INTEGER,           -- when a later deployment took its place
    PRIMARY KEY (deployment, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX targeted_by_device ON targeted (device);

-- Stages by the hub's clock. Device 0 stands for every targeted device.
CREATE TABLE hub_stage (
    deployment TEXT NOT NULL,
    device INTEGER NOT NULL,
    stage TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    reason_code INTEGER,             -- MQTT 5 reason code of the PUBACK, where there was one
    PRIMARY KEY (deployment, device, stage)
) STRICT, WITHOUT ROWID;
