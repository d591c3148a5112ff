"""The manifest of a release: what it is made of, whom it fits, how it is installed and judged.

Owns its fields, their bounds and its canonical bytes, whose SHA-256 is the release's identity.
Never opens a file: the hub builds manifests, the device obeys them.
"""

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sync.wording import sentence

MANIFEST_BYTES_MAX: Final = 256 * 1024
"""Longest manifest a device reads."""

ARTIFACT_BYTES_MAX: Final = 8 * 1024**3

STEADY_S: Final = 10.0
"""How long a unit must stay up before it counts as proven, if the release does not say. systemd
itself gives up on what starts five times in ten seconds (`DefaultStartLimitIntervalSec`)."""

COMPONENT_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
VERSION_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9.+~_-]{0,62}$"
DIGEST_PATTERN: Final = r"^[0-9a-f]{64}$"

Argument = Annotated[str, Field(min_length=1, max_length=1000)]
Command = Annotated[tuple[Argument, ...], Field(min_length=1, max_length=50)]
Versions = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.+~_*-]{1,63}$")], ...],
    Field(min_length=1, max_length=50),
]
"""Versions, `*` standing for any characters: `1.4.2`, `1.*`."""

Parameters = Annotated[
    dict[Annotated[str, Field(max_length=63)], str | int | float | bool], Field(max_length=50)
]

_ADDED: Final = (
    "requires",
    "forbids",
    "owner",
    "outcomes",
    "unmeasured",
    "parts",
    "floor",
    "defer_s",
    "overdue",
)
"""Fields that the first manifests did not have."""


class BadManifest(ValueError):
    """The text is no manifest. Who wrote it is to blame; nothing was installed or published."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class PartOf(_Part):
    """A part of a release that is put onto the device in a way of its own."""

    name: Annotated[str, Field(pattern=COMPONENT_PATTERN)]
    """Stays the same from version to version."""
    installer: Annotated[str, Field(pattern=COMPONENT_PATTERN)]
    parameters: Parameters = {}


class Artifact(_Part):
    """One immutable file of the release."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    sha256: Annotated[str, Field(pattern=DIGEST_PATTERN)]
    length_bytes: Annotated[int, Field(ge=0, le=ARTIFACT_BYTES_MAX)]
    part: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")] = ""
    """Which of the release's parts it belongs to; empty if the release is not made of parts."""


class Check(_Part):
    """One thing that must be so before a release counts as proven."""

    kind: Literal["command", "http", "unit", "hub"]
    command: Command | None = None
    """`command`: must exit with 0; run in the release's folder."""
    url: Annotated[str, Field(pattern=r"^(http://[^\s/]+(/\S*)?)?$", max_length=500)] = ""
    """`http`: asked with GET; plain HTTP, because it asks the device itself."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """`http`: what the answer must have."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """`http`: longest wait for one answer."""
    unit: Annotated[str, Field(pattern=r"^([A-Za-z0-9:_.@\\-]{1,200}\.service)?$")] = ""
    """`unit`: a systemd service that must be active, and must not end again and again."""
    restarts_max: Annotated[int, Field(ge=0, le=1000)] = 3
    """`unit`: restarts within the trial that are more than a hiccup."""
    budget_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """`hub`: how long to wait for the hub. Its absence is reported and never a reason to go back:
    the network may be out."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        needed = {"command": self.command, "http": self.url, "unit": self.unit, "hub": True}
        if not needed[self.kind]:
            word = "url" if self.kind == "http" else self.kind
            raise ValueError(f"a check of the kind {self.kind} needs {word}")
        return self


class Health(_Part):
    """How a release proves itself on the device: the command exits with 0, and all checks pass."""

    command: Command | None = None
    """Run in the release's folder. `{python}` stands for the interpreter that runs the agent."""
    checks: Annotated[tuple[Check, ...], Field(max_length=20)] = ()
    """What must be so besides, within the same deadline."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long after activation it may take until the check passes."""
    pause_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """Wait between two tries within the deadline."""
    steady_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    """For how long all of it must be so without a break; it must begin before the deadline.
    Without, `STEADY_S` if a unit is looked at, which may end a second after it began, or what the
    installer asks for; else 0."""

    @property
    def steady_for_s(self) -> float:
        """For how long all of it must be so without a break, by what the release says."""
        if self.steady_s is not None:
            return self.steady_s
        return STEADY_S if any(each.kind == "unit" for each in self.checks) else 0.0

    @model_validator(mode="after")
    def _proves_something(self) -> Self:
        if self.command is None and all(each.kind == "hub" for each in self.checks):
            raise ValueError("give a command, or a check other than hub")
        return self


class Manifest(_Part):
    """What an operator releases. Fields without default must be given."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    component: Annotated[str, Field(pattern=COMPONENT_PATTERN)]
    """What is released: a name that stays the same from version to version."""
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    compatible: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...], Field(max_length=50)
    ] = ()
    """Device classes it fits; empty means every class."""
    installer: Annotated[str, Field(pattern=COMPONENT_PATTERN)] = "directory"
    """Which installer of the device takes it."""
    parameters: Parameters = {}
    """Passed to the installer as they are."""
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=100)]
    parts: Annotated[tuple[PartOf, ...], Field(max_length=20)] = ()
    """If the release is made of parts: in this order they are put in place, and in the reverse one
    taken back, all or none. `installer` and `parameters` then say nothing."""
    restart: Command | None = None
    """Run in the release's folder after it was switched to, and in the old one after a return."""
    restart_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """How long `restart` may take."""
    health: Health
    requires: Annotated[
        dict[Annotated[str, Field(pattern=COMPONENT_PATTERN)], Versions], Field(max_length=50)
    ] = {}
    """Components that must run here, each in one of the versions named."""
    forbids: Annotated[
        dict[Annotated[str, Field(pattern=COMPONENT_PATTERN)], Versions], Field(max_length=50)
    ] = {}
    """Versions of components that must not run here."""
    floor: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9.+~_-]{0,62})?$")] = ""
    """Once this release runs, none of the component that is older than this is installed; the way
    back from a bad trial stays open. Empty for no floor."""
    owner: Annotated[str, Field(max_length=200)] = ""
    """Who answers for the release: a team or an address."""
    outcomes: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")], ...],
        Field(max_length=50),
    ] = ()
    """Names of the outcomes by which it will be judged."""
    unmeasured: Annotated[str, Field(max_length=500)] = ""
    """Why it is released without owner or outcome."""
    defer_s: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """How long a device may wait with it altogether; without, what the device says."""
    overdue: Literal["", "go", "give_up"] = ""
    """What a device does then: go on all the same, or give it up; empty for what it says itself."""
    notes: Annotated[str, Field(max_length=2000)] = ""

    @property
    def is_measured(self) -> bool:
        """Whether somebody answers for it, and by something that will be measured."""
        return bool(self.owner.strip() and self.outcomes)

    @property
    def says_how_it_is_judged(self) -> bool:
        """Whether it is measured, or gives a reason why not."""
        return self.is_measured or bool(self.unmeasured.strip())

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [artifact.name for artifact in self.artifacts]
        if len(set(names)) != len(names):
            raise ValueError("two artifacts have the same name")
        return self

    @model_validator(mode="after")
    def _parts_are_whole(self) -> Self:
        named = [part.name for part in self.parts]
        if len(set(named)) != len(named):
            raise ValueError("two parts have the same name")
        used = {artifact.part for artifact in self.artifacts}
        if used != (set(named) or {""}):
            wrong = sorted(used ^ (set(named) or {""}))
            raise ValueError(
                "each artifact names a part that the release has, and each part has an artifact: "
                f"see {', '.join(map(repr, wrong))[:100]}"
            )
        return self

    def canonical(self) -> bytes:
        """Return the one byte form of this manifest.

        Fields that came later are left out while they are empty, so that what was released before
        them keeps its digest.
        """
        fields = self.model_dump(mode="json")
        for name in _ADDED:
            if not fields[name]:
                del fields[name]
        for artifact in fields["artifacts"]:
            if not artifact["part"]:
                del artifact["part"]
        if not fields["health"]["checks"]:
            del fields["health"]["checks"]
        if fields["health"]["steady_s"] is None:
            del fields["health"]["steady_s"]
        return json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    def digest(self) -> bytes:
        """Return the SHA-256 of the canonical bytes: the identity of the release."""
        return hashlib.sha256(self.canonical()).digest()


def parse_manifest(text: bytes, *, digest: bytes | None = None) -> Manifest:
    """Return the manifest in `text`, which must have `digest` if one is given.

    Raises:
        BadManifest: It is too long, has another digest, or a field is wrong; says which.
    """
    if len(text) > MANIFEST_BYTES_MAX:
        raise BadManifest(f"the manifest has {len(text)} bytes, at most {MANIFEST_BYTES_MAX}")
    if digest is not None and hashlib.sha256(text).digest() != digest:
        raise BadManifest("the manifest is not the one that was deployed: its digest differs")
    try:
        fields: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"the manifest is not JSON: {error}") from None
    return manifest_from(fields)


def manifest_from(fields: object) -> Manifest:
    """Return the manifest with these `fields`.

    Raises:
        BadManifest: A field is missing, unknown or out of bounds; one line per fault.
    """
    try:
        manifest = Manifest.model_validate(fields)
        manifest.canonical()
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(step) for step in fault['loc']) or 'manifest'}: {sentence(fault)}"
            for fault in error.errors(include_url=False)[:10]
        ]
        raise BadManifest("; ".join(faults)) from None
    except ValueError as error:  # a number or a character that JSON in UTF-8 cannot carry
        raise BadManifest(f"the manifest cannot be written as JSON: {error}") from None
    return manifest
