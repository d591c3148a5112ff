-- From which network an enrolment was asked for, so that a queue that one has filled can be cleared.
ALTER TABLE enrolment ADD COLUMN source TEXT NOT NULL DEFAULT '';
CREATE INDEX enrolment_by_source ON enrolment (state, source);
