-- What devices had measured when a deployment was accepted: the time before, which cumulative series
-- do not hold apart. Kept for the latest deployments.
CREATE TABLE baseline (
    deployment TEXT NOT NULL,
    device INTEGER NOT NULL,
    series TEXT NOT NULL,
    metric TEXT NOT NULL,
    release TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (deployment, device, series)
) STRICT, WITHOUT ROWID;
