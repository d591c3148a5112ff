"""What the hub answers over HTTP, as records: the shapes that its clients read.

Owns their fields. Built by `hub.views`; a test holds the two together. Fields that are not known
here are ignored, so a newer hub can say more.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from hub.outcomes.adoption import Adoption
from hub.outcomes.durations import Span
from hub.outcomes.funnel import Funnel
from hub.outcomes.observations import Waiting
from hub.outcomes.report import DeploymentReport, DeviceOutcome
from hub.outcomes.silence import Finding, Verdict
from hub.outcomes.survival import Summary
from hub.outcomes.verdicts import Judgement, Ruling
from sync.stages import Stage
from sync.stamps import Interval


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every answer."""


class Release(Answer, frozen=True, kw_only=True):
    """One release in the list."""

    release: str
    """`component@version`."""
    component: str
    version: str
    digest: str
    """SHA-256 of the manifest, hexadecimal."""
    created_at_ms: int
    manifest: Mapping[str, Any]
    is_signed: bool = False
    """Whether it is on the signed list of releases."""


class Releases(Answer, frozen=True, kw_only=True):
    """Releases, latest first."""

    items: tuple[Release, ...]


class Accepted(Answer, frozen=True, kw_only=True):
    """A deployment that the hub has promised."""

    deployment: str
    targeted: tuple[str, ...]
    """Devices on its list, which is fixed now."""


class Request(Answer, frozen=True, kw_only=True):
    """What was asked for with a deployment."""

    deployment: str
    release: str
    component: str
    version: str
    requested_at_ms: int
    group: str | None = None
    where: str = ""
    cancelled_at_ms: int | None = None
    expires_at_ms: int | None = None


class Requests(Answer, frozen=True, kw_only=True):
    """Deployments, latest first."""

    items: tuple[Request, ...]


class ReportSummary(Request, frozen=True, kw_only=True):
    """A report on a deployment without its devices."""

    at_ms: int
    """Hub UTC of the look."""
    sentence: str
    targeted_count: int
    running_count: int
    verdicts: Mapping[Verdict, int]
    devices_by_verdict: Mapping[Verdict, tuple[str, ...]]
    funnel: Funnel
    execution_gap: Summary
    handshake_latency: Summary
    reachable_handshake_latency: Summary
    silent_ratio: float | None
    patience_ms: int


class Outcome(Answer, frozen=True, kw_only=True):
    """What a deployment came to on one device."""

    device: str
    verdict: Verdict
    stage: Stage | None
    reason: str
    detail: str
    reachable_ms: int
    online: bool
    evidence_for: tuple[str, ...]
    evidence_against: tuple[str, ...]
    sentence: str
    runs: bool
    stages: Mapping[Stage, Interval]
    execution_gap: Span | None
    handshake_latency: Span | None
    reachable_handshake_latency: Span | None
    waiting: Waiting | None = None
    """What the device waits for, if it does."""

    def outcome(self) -> DeviceOutcome:
        """Return it as the hub worked it out."""
        return DeviceOutcome(
            device=self.device,
            finding=Finding(
                verdict=self.verdict,
                stage=self.stage,
                reason=self.reason,
                detail=self.detail,
                reachable_ms=self.reachable_ms,
                online=self.online,
                evidence_for=self.evidence_for,
                evidence_against=self.evidence_against,
                sentence=self.sentence,
                waiting=self.waiting,
            ),
            runs=self.runs,
            moments=self.stages,
            execution_gap=self.execution_gap,
            handshake_latency=self.handshake_latency,
            reachable_handshake_latency=self.reachable_handshake_latency,
        )


class Terms(Answer, frozen=True, kw_only=True):
    """What an operator ordered about waiting with a deployment."""

    group: str | None = None
    device: str | None = None
    ordered_at_ms: int
    now: bool = False
    windows: tuple[str, ...] = ()
    budget_s: int | None = None
    overdue: str | None = None
    who: str = ""
    why: str = ""


class Standing(Answer, frozen=True, kw_only=True):
    """The terms that stand for a deployment."""

    deployment: str
    terms: tuple[Terms, ...]


class Report(ReportSummary, frozen=True, kw_only=True):
    """A whole report."""

    devices: tuple[Outcome, ...]
    terms: tuple[Terms, ...] = ()

    def report(self) -> DeploymentReport:
        """Return it as the hub worked it out."""
        return DeploymentReport(
            deployment=self.deployment,
            component=self.component,
            version=self.version,
            at_ms=self.at_ms,
            patience_ms=self.patience_ms,
            funnel=self.funnel,
            verdicts=self.verdicts,
            running_count=self.running_count,
            execution_gap=self.execution_gap,
            handshake_latency=self.handshake_latency,
            reachable_handshake_latency=self.reachable_handshake_latency,
            silent_ratio=self.silent_ratio,
            devices=tuple(each.outcome() for each in self.devices),
        )


class Point(Answer, frozen=True, kw_only=True):
    """By so long after the request, between so large shares had acknowledged."""

    after_ms: int
    lo: float
    hi: float


class Verdicts(Request, frozen=True, kw_only=True):
    """Every judgement on a deployment."""

    at_ms: int
    """Hub UTC of the look."""
    verdict: Ruling
    """The most urgent one."""
    sentence: str
    outcome: str
    """The report in one sentence."""
    judgements: tuple[Judgement, ...]
    not_asked: Mapping[str, str]
    """Questions that were not asked, and why."""
    acknowledged: tuple[Point, ...]


class Arms(Answer, frozen=True, kw_only=True):
    """A flag that was dealt out in one group, judged."""

    group: str
    variant: str
    dealt_count: int
    rest_count: int
    read_count: int
    """Devices that have read it, on both sides."""
    verdict: Ruling
    sentence: str
    judgements: tuple[Judgement, ...]


class FlagVerdicts(Answer, frozen=True, kw_only=True):
    """Every judgement on a flag."""

    flag: str
    at_ms: int
    groups: tuple[Arms, ...]


class Outcomes(Answer, frozen=True, kw_only=True):
    """The latest deployments, judged."""

    items: tuple[Verdicts, ...]


class DeviceDeployment(Outcome, frozen=True, kw_only=True):
    """One deployment of a device."""

    deployment: str
    release: str
    component: str
    version: str
    requested_at_ms: int


class Version(Answer, frozen=True, kw_only=True):
    """What a device runs of one component."""

    component: str
    version: str
    healthy: bool
    """Whether the start that runs passed its health check; only then it counts."""
    reason: str = ""


class Listed(Answer, frozen=True, kw_only=True):
    """One device in the list."""

    device: str
    online: bool | None
    """None if nothing was heard of its presence since the hub has been connected itself."""
    first_seen_at_ms: int
    last_uplink_at_ms: int | None
    versions: tuple[Version, ...] = ()


class Page(Answer, frozen=True, kw_only=True):
    """Some devices, in order of their names."""

    items: tuple[Listed, ...]
    next: str | None = None
    """Name to go on from; None at the end."""


class Setting(Answer, frozen=True, kw_only=True):
    """A setting on a device: what each side wants, and what counts."""

    key: str
    local: Any = None
    desired: Any = None
    policy: str | None = None
    effective: Any = None
    winner: str | None = None
    conflict: bool = False


class Offence(Answer, frozen=True, kw_only=True):
    """Something that a device did wrong."""

    device: str
    code: str
    count: int
    last_at_ms: int
    detail: str = ""


class Seen(Answer, frozen=True, kw_only=True):
    """From this moment on the device was or was not connected."""

    at_ms: int
    online: bool


class JoinedLater(Answer, frozen=True, kw_only=True):
    """How far a device came with a deployment that was listed before it belonged to the group."""

    deployment: str
    release: str
    requested_at_ms: int
    stage: Stage
    seen_at_ms: int
    reason: str = ""
    detail: str = ""


class Device(Listed, frozen=True, kw_only=True):
    """All that is known of one device."""

    groups: tuple[str, ...] = ()
    facts: Mapping[str, Any] = {}
    deployments: tuple[DeviceDeployment, ...] = ()
    joined_later: tuple[JoinedLater, ...] = ()
    settings: tuple[Setting, ...] = ()
    presence: tuple[Seen, ...] = ()
    offences: tuple[Offence, ...] = ()


class Damaged(Answer, frozen=True, kw_only=True):
    """A stored document that could not be read any more, and was moved aside."""

    document: str
    found_at_ms: int
    reason: str


class Fleet(Answer, frozen=True, kw_only=True):
    """The answer to `fieldfare status`."""

    at_ms: int
    registered_count: int
    active_count: int
    online_count: int
    presence_unknown_count: int = 0
    """Devices of whose connection nothing was heard since the hub has been connected itself."""
    active_window_s: float
    dark: tuple[str, ...]
    adoption: tuple[Adoption, ...]
    deployments: tuple[ReportSummary, ...]
    unmeasured: Mapping[str, str] = {}
    """Releases among them that nobody measures, and the reason that was signed."""
    open_conflicts_count: int = 0
    damaged: tuple[Damaged, ...] = ()
    offences: tuple[Offence, ...] = ()


class Broker(Answer, frozen=True, kw_only=True):
    """The broker that the hub uses."""

    kind: str
    host: str
    port: int
    connected: bool = False
    """Whether the hub is connected to it now."""


class Hub(Answer, frozen=True, kw_only=True):
    """The hub itself."""

    version: str
    broker: Broker
    started_at_ms: int
    counters: Mapping[str, Any] = {}


class Token(Answer, frozen=True, kw_only=True):
    """A token without its secret."""

    id: str
    name: str
    scope: str
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int | None = None


class NewToken(Token, frozen=True, kw_only=True):
    """A token that was made, with its secret."""

    token: str
    """What is shown to the hub; nobody can say it again."""


class Tokens(Answer, frozen=True, kw_only=True):
    """Tokens, latest first."""

    items: tuple[Token, ...]


class Audited(Answer, frozen=True, kw_only=True):
    """One change, and who made it."""

    n: int
    """Counts up."""
    at_ms: int
    token: str
    """Id of the token; empty if it was the hub itself, or somebody on its machine."""
    name: str
    source: str
    """Address that the request came from; empty if it came from none."""
    action: str
    object: str
    asked: Mapping[str, Any]
    outcome: str


class Audit(Answer, frozen=True, kw_only=True):
    """A page of changes, latest first."""

    items: tuple[Audited, ...]
    next: int | None = None
    """Number before which the next page begins; null at the end."""
