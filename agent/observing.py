"""What runs, by the word of the installers now, and whether it is healthy.

Owns looking and reporting. Installs nothing, and decides nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from agent.clock import Clock
from agent.desired import Wish
from agent.documents import Documents
from agent.install import DONE, UNTOUCHED
from agent.journal import Journal
from agent.plan import Runs
from agent.releases import Releases
from agent.report import Report
from agent.threads import in_thread
from sync.stages import Reason, Stage


class Observing:
    """Looks at what runs on the device."""

    def __init__(
        self,
        releases: Releases,
        report: Report,
        documents: Documents,
        clock: Clock,
        journals: Mapping[str, Journal],
    ) -> None:
        """Look at these; `journals` are the last install of each component, as they are now."""
        self._releases = releases
        self._report = report
        self._documents = documents
        self._clock = clock
        self._journals = journals

    def versions(self) -> dict[str, str]:
        """Return the version of each component, as was last reported."""
        return self._report.versions()

    def unknown(self) -> dict[str, str]:
        """Return why it cannot be told what runs, for each component where that is so."""
        return dict(self._releases.unknown)

    async def observe(self, tell: Callable[[str], None]) -> None:
        """Check what runs and report it: proven by this start, whatever was reported before.

        Components whose switch is in doubt are left out; their install goes on and reports.

        Args:
            tell: Hears what is being checked.
        """
        reported = self._report.known()
        kept = await in_thread(self._releases.components, "releases")
        for component in sorted({*kept, *reported}):
            journal = self._journals.get(component)
            if journal is not None and journal.at not in DONE | UNTOUCHED:
                continue
            release = await in_thread(partial(self._releases.running, component), "releases")
            if release is None:
                if component in reported and reported[component].version:
                    await self._report.unproven(component)
                continue
            tell(f"checking {component} {release.manifest.version}")
            verdict = await self._releases.trial(release, self._clock.mono_s)
            brought_by = self._report.deployment_of(component, release.digest)
            await self._report.tried(release, verdict, brought_by)
            await self._releases.note_committed(release)  # an earlier program did not

    async def runs(self, components: Iterable[str]) -> dict[str, Runs]:
        """Return what runs of these components, by the word of their installers now.

        One whose installer cannot say it is left out.
        """
        found = {}
        for component in components:
            release = await in_thread(partial(self._releases.running, component), "releases")
            if release is None and component in self._releases.unknown:
                continue
            digest = b"" if release is None else release.digest
            brought_by = self._report.deployment_of(component, digest)
            found[component] = Runs(digest, brought_by, self._journals.get(component))
        return found

    async def adopt(self, wish: Wish) -> bool:
        """Acknowledge a deployment of the release that runs already; False if another one runs."""
        component = wish.record.component
        release = await in_thread(partial(self._releases.running, component), "releases")
        if release is None or release.digest != wish.record.manifest:
            return False
        known = self._journals.get(component)
        if known is not None and (known.at not in DONE or known.deployment == wish.deployment):
            return False
        verdict = await self._releases.trial(release, self._clock.mono_s)
        if not verdict.healthy:
            return False
        await self._report.tried(release, verdict, wish.deployment)
        again = Reason.ALREADY_RUNNING.value
        await self._documents.acknowledge(wish.deployment, Stage.HEALTHY, reason=again)
        await self._documents.acknowledge(wish.deployment, Stage.ACKNOWLEDGED, reason=again)
        return True
