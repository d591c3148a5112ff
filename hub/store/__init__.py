"""What the hub knows, durably: one SQLite file, and the only SQL of the hub.

`database` owns the file, its one writer and its readers. Every other module owns a family of tables
and is called with a connection, inside a transaction that somebody else began.
"""
