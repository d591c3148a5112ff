"""A clock that moves only when a test moves it."""

from sync.stamps import ClockSync, Stamp


class FakeClock:
    """The clocks of a device whose boot, uptime and wall clock a test decides."""

    def __init__(self, *, wall_ms: int = 1_700_000_000_000, boot: bytes = b"boot-1") -> None:
        self.wall = wall_ms
        self.mono = 100.0
        self.boot = boot
        self.sync = ClockSync.UNKNOWN

    def wall_ms(self) -> int:
        return self.wall

    def mono_s(self) -> float:
        return self.mono

    def stamp(self) -> Stamp:
        return Stamp(self.boot, round(self.mono * 1000), self.wall, self.sync)

    def pass_s(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += round(seconds * 1000)
