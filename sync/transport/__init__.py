"""How frames get from one side to the other, and nothing about what is in them.

`port` says what a transport promises; `mqtt` keeps a link to a real broker, `memory` one to a
broker in the same process.
Within `mqtt`: `connection` is one connection, `engine` is paho-mqtt on it, `packets` the two
frequent packets, `outbox` and `inbox` what waits in each direction, `filters` the rules of topics.
Beside them `notify` and `journal`: what a program says to the service manager that started it.
"""
