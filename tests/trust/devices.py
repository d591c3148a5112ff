"""A device that has nothing but a pinned root and a disk, and asks whether it may install."""

from pathlib import Path

from agent.trust.floor import Floor
from agent.trust.question import Answer, Question
from agent.trust.sources import Source
from agent.trust.verify import answer
from sync.manifest import Manifest
from sync.stamps import ClockSync, Stamp
from tests.trust.workshop import DAY_S, Served, Workshop

BUDGET_S = 30 * DAY_S


class Device:
    """Its clock shows 1970; only its uptime moves."""

    def __init__(self, folder: Path, pinned: bytes) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.root = folder / "pinned.json"
        self.root.write_bytes(pinned)
        self.floor = Floor()
        self.boot = b"\1\2\3\4\5\6"
        self.boottime_ms = 1000
        self.hub_ms = 0

    def stamp(self) -> Stamp:
        return Stamp(self.boot, self.boottime_ms, 0, ClockSync.UNKNOWN)

    def now_s(self) -> int:
        return self.floor.now_s(self.stamp(), self.hub_ms)

    def question(self, manifest: Manifest, *, budget_s: int = BUDGET_S) -> Question:
        return Question(
            state_dir=str(self.folder),
            root=str(self.root),
            hub_url="http://127.0.0.1:1",
            identity="",
            stall_s=1,
            floor_s=self.now_s(),
            floor_keys=self.floor.keys,
            budget_s=budget_s,
            component=manifest.component,
            version=manifest.version,
            digest=manifest.digest(),
            length_bytes=len(manifest.canonical()),
        )

    def ask(
        self, manifest: Manifest, source: Source | Workshop, *, budget_s: int = BUDGET_S
    ) -> Answer:
        """Ask, and take the time from the answer as the agent does."""
        if isinstance(source, Workshop):
            source = Served(dict(source.files))
        found = answer(self.question(manifest, budget_s=budget_s), source)
        if found.root_version:
            self.floor = self.floor.after(
                found.signed_s, found.online_id, self.stamp(), self.hub_ms
            )
        return found

    def pass_time(self, span_s: int) -> None:
        self.boottime_ms += span_s * 1000

    def restart(self) -> None:
        self.boot = bytes([self.boot[0] + 1, *self.boot[1:]])
        self.boottime_ms = 1000
        self.hub_ms = 0
