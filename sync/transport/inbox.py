"""Events waiting for the program: a bounded queue with one reader.

This module owns the order of events and the decision when reading must stop.
It never touches a socket.
Its rule: whoever fills it asks `full` after each chunk and stops reading while it says so; the
queue itself never drops an event.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from sync.transport.port import Counters, Delivery, Event


class Inbox:
    """Events in order of arrival.

    Args:
        max_count: Waiting events from which on it counts as full.
        max_bytes: Waiting payload bytes from which on it counts as full.
        counters: Counts what is handed over.
    """

    def __init__(self, *, max_count: int, max_bytes: int, counters: Counters) -> None:
        self._events: deque[Event] = deque()
        self._waiting_bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._counters = counters
        self._reader: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.on_room: Callable[[], None] | None = None
        """Called when a full inbox has room again."""

    def __len__(self) -> int:
        """Return how many events wait."""
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether no more should be read for now. It stays full until half of it is taken."""
        if len(self._events) >= self._max_count or self._waiting_bytes >= self._max_bytes:
            self._room.clear()
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until there is room."""
        await self._room.wait()

    def add(self, event: Event) -> None:
        """Append an event and wake the reader."""
        self._events.append(event)
        if type(event) is Delivery:
            self._waiting_bytes += len(event.payload)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def take(self, max_count: int) -> list[Event]:
        """Wait for an event and return up to `max_count` of those that wait.

        Cancelling the wait loses nothing.

        Raises:
            RuntimeError: Another task waits already.
        """
        if self._reader is not None:
            raise RuntimeError("two tasks receive from one transport: give it one reader")
        while not self._events:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if len(self._events) <= max_count:
            taken = list(self._events)
            self._events.clear()
        else:
            taken = [self._events.popleft() for _ in range(max(1, max_count))]
        self._account(taken)
        return taken

    def _account(self, taken: list[Event]) -> None:
        count = taken_bytes = 0
        for event in taken:
            if type(event) is Delivery:
                count += 1
                taken_bytes += len(event.payload)
        self._waiting_bytes -= taken_bytes
        self._counters.received_count += count
        self._counters.received_bytes += taken_bytes
        if (
            not self._room.is_set()
            and len(self._events) <= self._max_count // 2
            and self._waiting_bytes <= self._max_bytes // 2
        ):
            self._room.set()
            if self.on_room is not None:
                self.on_room()
