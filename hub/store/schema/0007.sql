-- Flags and kill orders: what operators did, and whom it concerned. Times are hub UTC in
-- milliseconds.

-- One row for each change of a flag in a group.
CREATE TABLE flag_step (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    flag TEXT NOT NULL,
    fleet_group TEXT NOT NULL,
    clock INTEGER NOT NULL,            -- of the definition that was written
    action TEXT NOT NULL,              -- set, launch, ramp, finish, remove
    variant TEXT NOT NULL,             -- that is dealt out, or that everyone has; empty for neither
    share REAL,                        -- as it was asked for; NULL if nothing was dealt out
    weight INTEGER,                    -- of 2147483647
    dealt_count INTEGER NOT NULL,      -- devices that it was dealt to
    eligible_count INTEGER NOT NULL,   -- devices of the group at that moment
    at_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL
) STRICT;
CREATE INDEX flag_steps ON flag_step (flag, fleet_group, n);

-- Devices that a flag was dealt to, fixed when it was.
CREATE TABLE cohort (
    flag TEXT NOT NULL,
    fleet_group TEXT NOT NULL,
    device INTEGER NOT NULL,
    variant TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (flag, fleet_group, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX cohort_devices ON cohort (device);

CREATE TABLE kill_order (
    clock INTEGER NOT NULL PRIMARY KEY,
    what TEXT NOT NULL,                -- flag:<key> or deployment:<id>
    is_killed INTEGER NOT NULL,
    fleet_groups TEXT NOT NULL,        -- JSON
    lease_s INTEGER,                   -- longest of the flag's definitions; NULL if one never ends
    requested_ms INTEGER NOT NULL,
    published_ms INTEGER,              -- handed to the broker first; NULL if not yet
    who TEXT NOT NULL,
    why TEXT NOT NULL
) STRICT;
CREATE INDEX kill_orders ON kill_order (what, clock);

-- Devices that an order concerns, fixed when it was given.
CREATE TABLE kill_target (
    clock INTEGER NOT NULL,
    device INTEGER NOT NULL,
    PRIMARY KEY (clock, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX kill_target_devices ON kill_target (device);

-- The first word of each device that it holds to an order.
CREATE TABLE kill_seen (
    clock INTEGER NOT NULL,
    device INTEGER NOT NULL,
    how TEXT NOT NULL,
    boot BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    sync INTEGER NOT NULL,
    detail TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    PRIMARY KEY (clock, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX kill_seen_devices ON kill_seen (device);
