"""Which devices that nobody knows are registered: a bound on how many strangers can make up.

Owns the count of those registered and the pace of new ones. Lives on the writer's thread; never
stores. Who is turned away says everything again later, so a fleet that is larger than an hour's
worth only takes longer to appear.

Method: the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371), as in
`hub.flood`: an hour's worth at once, then at the pace of so many an hour.
"""

from typing import Final

from hub.clock import Now
from hub.store import devices
from hub.store.database import Connection

HOUR_S: Final = 3600.0


class Admission:
    """The bound on new devices.

    Args:
        devices_max_count: Most devices in all.
        per_hour_max_count: Most of them that may be new within an hour.
    """

    def __init__(self, *, devices_max_count: int, per_hour_max_count: int) -> None:
        self._devices_max_count = devices_max_count
        self._per_hour_max_count = per_hour_max_count
        self._cost_s = HOUR_S / per_hour_max_count
        self._count = -1
        self._paid_mono = 0.0

    def refusal(self, connection: Connection, now: Now) -> str:
        """Return why no new device is registered now, empty if one is; it then counts."""
        if self._count < 0:
            self._count = devices.count(connection)
            new_count = devices.count_new(connection, now.ms - round(HOUR_S * 1000))
            self._paid_mono = max(self._paid_mono, now.mono_s + new_count * self._cost_s)
        if self._count >= self._devices_max_count:
            return f"is not registered, and {self._count} devices are already (devices_max_count)"
        if self._paid_mono + self._cost_s - now.mono_s > HOUR_S:
            return (
                f"is not registered, and {self._per_hour_max_count} devices were within an hour "
                "(new_devices_per_hour_max_count)"
            )
        self._count += 1
        self._paid_mono = max(self._paid_mono, now.mono_s) + self._cost_s
        return ""

    def forget(self) -> None:
        """Count anew what is stored: a transaction has failed, or devices were removed."""
        self._count = -1
        self._paid_mono = 0.0
