"""Who belongs to the fleet: the hub's certificate authority, claim tokens and enrolments."""
