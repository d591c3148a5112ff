-- What devices' documents say, one row a key, for queries. Acknowledgements are in the journal.
-- Never migrated: PROJECTION_VERSION in hub/store/projection.py goes up, and the hub builds it anew.

CREATE TABLE p_fact (
    device INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,             -- JSON
    PRIMARY KEY (device, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE p_version (
    device INTEGER NOT NULL,
    component TEXT NOT NULL,
    version TEXT NOT NULL,
    release BLOB NOT NULL,
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (device, component)
) STRICT, WITHOUT ROWID;

CREATE TABLE p_setting (
    device INTEGER NOT NULL,
    key TEXT NOT NULL,
    clock INTEGER NOT NULL,
    value TEXT,                      -- JSON; NULL if the application took it back
    saw INTEGER NOT NULL,
    writer TEXT NOT NULL,
    PRIMARY KEY (device, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE p_waiting (
    device INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,            -- empty once the wait is over
    detail TEXT NOT NULL,
    until_ms INTEGER NOT NULL,       -- 0 if the device does not know
    left_s INTEGER NOT NULL,
    overdue TEXT NOT NULL,
    PRIMARY KEY (device, deployment)
) STRICT, WITHOUT ROWID;

CREATE TABLE p_conflict (
    device INTEGER NOT NULL,
    key TEXT NOT NULL,
    clock INTEGER NOT NULL,
    local TEXT,
    desired TEXT,
    effective TEXT,
    winner TEXT NOT NULL,            -- empty once settled
    local_clock INTEGER NOT NULL,
    desired_clock INTEGER NOT NULL,
    PRIMARY KEY (device, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE p_exposure (
    device INTEGER NOT NULL,
    flag TEXT NOT NULL,
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    variant TEXT NOT NULL,
    reason TEXT NOT NULL,
    clock INTEGER NOT NULL,
    reader TEXT NOT NULL,
    variants_count INTEGER NOT NULL,
    PRIMARY KEY (device, flag)
) STRICT, WITHOUT ROWID;
CREATE INDEX p_exposure_flags ON p_exposure (flag);

CREATE TABLE p_obeyed (
    device INTEGER NOT NULL,
    what TEXT NOT NULL,              -- flag:<key> or deployment:<id>
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    sync INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    how TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (device, what)
) STRICT, WITHOUT ROWID;
CREATE INDEX p_obeyed_orders ON p_obeyed (what);

-- From here on: what devices' telemetry says.

CREATE TABLE p_measure (
    device INTEGER NOT NULL,
    series TEXT NOT NULL,            -- metric/release/variant
    metric TEXT NOT NULL,
    release TEXT NOT NULL,
    variant TEXT NOT NULL,
    kind TEXT NOT NULL,
    count INTEGER NOT NULL,
    total REAL NOT NULL,
    record BLOB NOT NULL,            -- the whole record, with its buckets
    PRIMARY KEY (device, series)
) STRICT, WITHOUT ROWID;
CREATE INDEX p_measure_by_metric ON p_measure (metric, release, variant);

CREATE TABLE p_event (
    device INTEGER NOT NULL,
    slot TEXT NOT NULL,
    number INTEGER NOT NULL,
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    release TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (device, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE p_case (
    device INTEGER NOT NULL,
    intent TEXT NOT NULL,
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    intended TEXT NOT NULL,
    reached TEXT NOT NULL,
    by TEXT NOT NULL,
    release TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (device, intent)
) STRICT, WITHOUT ROWID;
