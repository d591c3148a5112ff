"""How frames get from one side to the other: the port, and what implements it.

`port` says what a transport promises, `mqtt` speaks to a real broker, `memory` is a broker and a
transport inside one process for tests.
Nothing here looks into a payload.
"""
