"""What the device says about what runs: one record for each component.

Owns the `v/` records. Never checks anything itself: it writes down what a trial has shown.
"""

from typing import Final

from agent.clock import Clock
from agent.documents import Documents
from agent.health import Verdict
from agent.releases import Release
from sync import documents as names
from sync import records
from sync.records import Running

NO_DIGEST: Final = b"\0" * 32


class Report:
    """The records of what runs, in the device's document."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        """Write into `documents`, stamped by `clock`."""
        self._documents = documents
        self._clock = clock

    async def tried(self, release: Release, verdict: Verdict, deployment: str) -> None:
        """Report a release that was tried in this start, and how that went."""
        manifest, now = release.manifest, self._clock.stamp()
        running = Running(
            manifest.version,
            release.digest,
            now.boot,
            now.boottime_ms,
            healthy=verdict.healthy,
            deployment=deployment,
            reason=str(verdict.reason),
        )
        await self._write(manifest.component, running)

    async def unproven(self, component: str, digest: bytes = NO_DIGEST) -> None:
        """Report that nothing is known to run well: nothing at all, or something untried."""
        now = self._clock.stamp()
        await self._write(component, Running("", digest, now.boot, now.boottime_ms, healthy=False))

    def deployment_of(self, component: str, digest: bytes) -> str:
        """Return the deployment that brought a release, as was reported when it came."""
        known = self.known().get(component)
        return known.deployment if known is not None and known.release == digest else ""

    def known(self) -> dict[str, Running]:
        """Return what was reported last, by component."""
        return records.select(Running, names.VERSION, self._documents.reported())

    def is_proven(self, release: Release) -> bool:
        """Tell whether the release was reported as running and healthy."""
        reported = records.select(Running, names.VERSION, self._documents.reported())
        known = reported.get(release.manifest.component)
        return known is not None and known.release == release.digest and known.healthy

    def versions(self) -> dict[str, str]:
        """Return the version that runs of each component, as was last reported."""
        running = records.select(Running, names.VERSION, self._documents.reported())
        return {component: each.version for component, each in running.items() if each.version}

    async def _write(self, component: str, running: Running) -> None:
        await self._documents.write({names.VERSION + component: records.encode(running)})
