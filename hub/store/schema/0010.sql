-- Looks that were planned once and are not repeated: to look again is another chance to be wrong.
-- Times are hub UTC in milliseconds.
CREATE TABLE look (
    about TEXT NOT NULL,             -- deployment:<id> or flag:<group>/<flag>/<when it was dealt>
    name TEXT NOT NULL,              -- of the judgement
    at_ms INTEGER NOT NULL,
    judgement TEXT NOT NULL,         -- JSON
    PRIMARY KEY (about, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX baseline_devices ON baseline (device);
