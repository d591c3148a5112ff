"""The agent's settings: one declaration each, from a TOML file and the environment.

Owns names, defaults, bounds and sentences. Never touches the network or a store.
The environment variable `FIELDFARE_AGENT_<NAME>` overrides the file; lists and tables in it are
JSON.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from agent.daytime import zone_named
from sync.calendar import parse_windows
from sync.documents import RESERVED_DEVICE_IDS, SETTING_KEY_PATTERN, check_id
from sync.manifest import COMPONENT_PATTERN, VERSION_PATTERN
from sync.topics import check_group
from sync.wording import sentence

ENV_PREFIX: Final = "FIELDFARE_AGENT_"
DEFAULT_FILE: Final = Path("/etc/fieldfare/agent.toml")
SOCKET_PATH_BYTES_MAX: Final = 107
"""Longest path that a Unix socket address holds (sys/un.h)."""

TOLD_CHARACTERS_MAX: Final = 1000
"""Longest JSON of the labels, and of the groups: each is told to the hub as one record."""

SHOWN_CHARACTERS_MAX: Final = 60
"""Longest wrong value that a message repeats."""

_LABEL: Final = re.compile(r"[A-Za-z0-9._-]{0,63}\Z")
"""A label's value, as selectors can name it."""

_LISTS: Final = frozenset(
    {
        "floors",
        "groups",
        "installers",
        "labels",
        "local_allowed_uids",
        "maintenance_windows",
        "measure_databases",
        "measure_services",
        "media_dirs",
        "metered_interfaces",
        "neighbour_urls",
        "reboot_command",
    }
)
"""Settings that are JSON, or separated by commas, in a variable of the environment."""

Seconds = Annotated[float, Field(gt=0, le=31_536_000)]

InstallerName = Annotated[str, Field(pattern=COMPONENT_PATTERN)]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
OptionValue = bool | int | float | Annotated[str, Field(max_length=1000)]


class BadSettings(ValueError):
    """A setting is wrong. Whoever wrote it is to blame; the agent did not start."""


class Settings(BaseModel):
    """Settings of the agent. Durations are in seconds, sizes in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(description="Name of this device: 1 to 63 of a-z, 0-9 and -.")
    hub_url: str = Field(
        "http://127.0.0.1:8420", description="Where releases are fetched from.", max_length=500
    )
    broker_host: str = Field(
        "127.0.0.1", min_length=1, description="Name or address of the MQTT broker."
    )
    broker_port: int = Field(18830, ge=1, le=65535, description="TCP port of the MQTT broker.")
    broker_tls: bool = Field(
        default=False, description="Reach the broker over TLS 1.3 with this device's certificate."
    )
    device_key: str = Field(
        "",
        pattern=r"^([A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)?$",
        description="Where the device's key lives, as `module:Class` (see `agent.keys`); empty for "
        "a file in `state_dir`.",
    )
    mqtt_version: Literal["auto", "3.1.1", "5"] = Field(
        "auto", description="MQTT version; `auto` tries 5 first and falls back."
    )
    keepalive_s: int = Field(
        30, ge=1, le=3600, description="Silence after which the link to the broker is probed."
    )
    reconnect_max_s: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="Longest wait between two attempts to reach the broker.",
    )
    state_dir: Path = Field(
        Path("/var/lib/fieldfare"), description="Database, downloads and the data of components."
    )
    install_dir: Path = Field(
        Path("/opt/fieldfare"), description="Where the `directory` installer keeps releases."
    )
    groups: tuple[str, ...] = Field(
        ("all",), max_length=32, description="Groups this device belongs to."
    )
    device_class: str = Field(
        "generic", max_length=63, description="What the device is; releases name what they fit."
    )
    labels: dict[str, str] = Field(
        {}, max_length=32, description="Labels that selectors can ask for: site, room, customer."
    )
    retry_first_s: Seconds = Field(
        5.0, description="Wait for an answer of the hub before saying it again."
    )
    retry_longest_s: Seconds = Field(300.0, description="Longest such wait.")
    linger_ms: int = Field(
        50, ge=0, le=60_000, description="How long writes are gathered before they go out together."
    )
    anti_entropy_s: Seconds = Field(
        3600.0, description="How often the device compares documents with the hub, with jitter."
    )
    local_socket: Path | None = Field(
        None, description="Socket for applications; `agent.sock` in `state_dir` if not given."
    )
    local_allowed_uids: tuple[int, ...] = Field(
        (), max_length=64, description="Users beside root and the agent's own that may use it."
    )
    floors: dict[InstallerName, Annotated[str, Field(pattern=VERSION_PATTERN)]] = Field(
        {},
        max_length=50,
        description="Oldest version of a component that may be installed here.",
    )
    reboot_command: tuple[str, ...] = Field(
        ("systemctl", "reboot"),
        min_length=1,
        max_length=20,
        description="What starts the device anew; what an installer wants it to be given comes "
        "behind it.",
    )
    reboot_wait_s: Seconds = Field(
        300.0, description="How long the device may go on running after it was told to start anew."
    )
    trial_boots_max: int = Field(
        3,
        ge=1,
        le=100,
        description="Starts of the device that a release may take until it is proven.",
    )
    installers: dict[
        InstallerName, Annotated[dict[OptionName, OptionValue], Field(max_length=50)]
    ] = Field(
        {},
        max_length=50,
        description="What this device says to each installer; a TOML table for each, such as "
        "[installers.ab-slots].",
    )
    install_attempts_max: int = Field(
        5, ge=1, le=100, description="Tries to install one release before it is given up."
    )
    fetch_attempts_max: int = Field(
        8, ge=1, le=1000, description="Tries to fetch one file before the install fails."
    )
    fetch_deaths_max: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Times that the agent may die while it fetches one release and nothing more "
        "comes between two of them, before the install fails. To be switched off in order, or "
        "while the hub is out of reach, counts for nothing.",
    )
    fetch_stall_s: Seconds = Field(
        30.0, description="Silence after which a download is broken off and resumed."
    )
    download_bytes_per_s: int = Field(
        0, ge=0, description="Most bytes of downloads in a second; 0 is no limit."
    )
    download_least_bytes_per_s: int = Field(
        100,
        ge=0,
        description="Least rate of a download; one that trickles is broken off. 0 takes any rate.",
    )
    download_slow_s: Seconds = Field(
        60.0, description="Time spent waiting for bytes over which the least rate is looked at."
    )
    download_budget_ratio: float = Field(
        4.0,
        ge=1,
        le=1000,
        description="How many times its length, and 1 MiB, a file may cost before it is given up.",
    )
    metered_interfaces: tuple[str, ...] = Field(
        (),
        max_length=32,
        description="Interfaces whose bytes cost money; `*` and `?` stand for anything. While the "
        "default route leads over one, longer files than the next setting says wait.",
    )
    metered_bytes_max: int = Field(
        1024**2, ge=0, description="Longest file that is fetched over a metered interface."
    )
    neighbour_urls: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="Addresses on the local network that are asked for a file before the hub.",
    )
    media_dirs: tuple[Path, ...] = Field(
        (),
        max_length=16,
        description="Folders that are looked into before that, for files called like their "
        "SHA-256: where a USB stick is mounted.",
    )
    share_host: str = Field(
        "",
        max_length=253,
        description="Address on which this device serves its neighbours over plain HTTP; empty to "
        "serve none. Name one of the local network.",
    )
    share_port: int = Field(8421, ge=1, le=65535, description="TCP port of that.")
    share_keep_bytes: int = Field(
        0,
        ge=0,
        description="Most bytes of files that are kept for neighbours after they were used here; 0 "
        "keeps none.",
    )
    share_connections_max: int = Field(
        8, ge=1, le=1000, description="Most neighbours that are served at once."
    )
    share_bytes_per_s: int = Field(
        0, ge=0, description="Most bytes for all neighbours together in a second; 0 is no limit."
    )
    pack_wait_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long to wait while the hub makes a pack, before the whole release is "
        "fetched.",
    )
    release_bytes_max: int = Field(
        2 * 1024**3, ge=1, description="Most bytes that a release may take once unpacked."
    )
    disk_reserve_bytes: int = Field(
        16 * 1024**2, ge=0, description="Free disk space that a download never touches."
    )
    trust_root: Path | None = Field(
        None,
        description="Root from which signed releases are verified; `trust/pinned.json` in "
        "`state_dir` if not given.",
    )
    allow_unsigned: bool = Field(
        False,  # noqa: FBT003 - a default
        description="Install unsigned releases as long as no root is pinned; for a desk only.",
    )
    staleness_budget_s: float = Field(
        30 * 86_400.0,
        ge=0,
        le=3_153_600_000,
        description="How long after its term signed metadata is still acted on, for devices that "
        "were dark.",
    )
    time_zone: str = Field(
        "UTC", description="Zone of the maintenance windows, such as `Europe/Berlin`."
    )
    maintenance_windows: tuple[str, ...] = Field(
        (),
        description="When releases may be switched to: `Mon..Fri 22:00-05:00`. Always, if empty.",
    )
    maintenance_from: Literal["fetch", "stage", "activate"] = Field(
        "activate", description="From which act on an install waits for a window."
    )
    maintenance_left_s: float = Field(
        0.0, ge=0, le=86_400, description="What must be left of a window to begin an act in it."
    )
    battery_min_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Charge below which an install waits, unless the device is fed from outside.",
    )
    load_max_ratio: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Load average for each processor above which an install waits; 0 is no limit.",
    )
    free_min_bytes: int = Field(
        0, ge=0, description="Free room in `install_dir` below which an install waits."
    )
    defer_budget_s: float = Field(
        7 * 86_400.0,
        ge=0,
        le=31_536_000,
        description="How long an install may wait for windows, locks, battery, load and room "
        "altogether.",
    )
    defer_overdue: Literal["go", "give_up"] = Field(
        "give_up",
        description="What happens then: `go` on all the same, but not with too little battery or "
        "room, or `give_up`.",
    )
    python: str = Field(
        sys.executable, description="Interpreter that `{python}` in commands stands for."
    )
    measure_flush_s: Seconds = Field(
        300.0,
        description="How long measurements of applications are gathered before they are stored and "
        "sent; a kill or power cut loses so much of them.",
    )
    vitals_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How often the device measures itself; 0 is never. It is stored six times as "
        "rarely as what applications measure.",
    )
    measure_services: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="systemd units whose CPU, memory and restarts are measured.",
    )
    measure_databases: dict[str, Path] = Field(
        {},
        max_length=8,
        description="SQLite databases, by a name of a-z, 0-9 and _, whose wait for the write lock "
        "is measured.",
    )
    wall_clock_offset_s: float = Field(
        0.0,
        ge=-3_153_600_000,
        le=3_153_600_000,
        description="Shifts the wall clock the agent reads; for rigs and demonstrations only.",
    )
    log_format: Literal["text", "json"] = Field("text", description="How log lines are written.")

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if check_id(value) in RESERVED_DEVICE_IDS:
            raise ValueError(f"{value!r} is a reserved word, choose another name")
        return value

    @field_validator("groups")
    @classmethod
    def _groups(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(check_group(group) for group in value))

    @field_validator("hub_url")
    @classmethod
    def _hub_url(cls, value: str) -> str:
        return _url(value)

    @field_validator("neighbour_urls")
    @classmethod
    def _neighbours(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_url(each) for each in value)

    @field_validator("maintenance_windows")
    @classmethod
    def _windows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_windows(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        zone_named(value)
        return value

    @field_validator("device_class")
    @classmethod
    def _class(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return _label(value)

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not SETTING_KEY_PATTERN.match(name) or name == "class":
                raise ValueError(
                    f"{name[:64]!r} cannot name a label: use 1 to 63 of a-z, 0-9, '.', '_' and "
                    "'-'; `class` is the device_class"
                )
            _label(text)
        return value

    @field_validator("state_dir", "install_dir", "local_socket", "trust_root")
    @classmethod
    def _path(cls, value: Path | None) -> Path | None:
        # Commands of a release run in another folder, where a relative path would mean another.
        return None if value is None else value.expanduser().absolute()

    @model_validator(mode="after")
    def _together(self) -> Self:
        longest = max(self.socket_path, self.measure_path, key=lambda path: len(os.fsencode(path)))
        if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(
                f"local_socket: a socket path has at most {SOCKET_PATH_BYTES_MAX} bytes, which "
                f"{longest} exceeds; name a shorter one"
            )
        if self.retry_first_s > self.retry_longest_s:
            raise ValueError("retry_first_s must not be longer than retry_longest_s")
        if self.broker_tls and not self.hub_url.startswith("https:"):
            raise ValueError(
                "broker_tls needs a hub_url with https://, where the certificate is renewed"
            )
        told = {"labels": self.labels, "groups": list(self.groups)}
        for name, value in told.items():
            if len(json.dumps(value)) > TOLD_CHARACTERS_MAX:
                raise ValueError(f"{name} must fit {TOLD_CHARACTERS_MAX} characters together")
        return self

    @property
    def identity_dir(self) -> Path:
        """Where the key and certificate of this device lie."""
        return self.state_dir / "identity"

    @property
    def socket_path(self) -> Path:
        """Where applications find the agent."""
        return self.local_socket or self.state_dir / "agent.sock"

    @property
    def measure_path(self) -> Path:
        """Where applications send what they measure: beside the socket of the agent."""
        return self.socket_path.with_name("measure.sock")

    @property
    def pinned_root(self) -> Path:
        """Where the root lies that was pinned when the device was enrolled."""
        return self.trust_root or self.state_dir / "trust" / "pinned.json"


def _url(value: str) -> str:
    address = urlsplit(value)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("must be http:// or https://, a host and perhaps a port")
    if address.port == 0 or address.query or address.fragment or address.username:
        raise ValueError("must have a port above 0 and no more than a path after it")
    return value.rstrip("/")


def _label(value: str) -> str:
    if not _LABEL.match(value):
        raise ValueError(f"{value[:64]!r} must have at most 63 of letters, digits, '.', '_', '-'")
    return value


def load(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of `file` and `environment`, the latter prevailing.

    Without `file`, `/etc/fieldfare/agent.toml` is read if it is there.

    Raises:
        BadSettings: Says where, which setting and what to do.
    """
    fields: dict[str, Any] = {}
    source: dict[str, str] = {}
    path = file if file is not None else DEFAULT_FILE
    if file is not None or os.path.lexists(DEFAULT_FILE):
        fields = _read(path)
        source = dict.fromkeys(fields, str(path))
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX):
            field = name.removeprefix(ENV_PREFIX).lower()
            fields[field] = _from_text(field, text)
            source[field] = name
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        raise BadSettings("; ".join(_fault(f, source) for f in error.errors()[:5])) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise BadSettings(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not TOML: {error}") from None


def _from_text(field: str, text: str) -> Any:
    declared = Settings.model_fields.get(field)
    if declared is not None and field in _LISTS:
        try:
            return json.loads(text)
        except ValueError:
            return (
                text.split(",")
                if field not in {"labels", "installers", "floors", "measure_databases"}
                else text
            )
    return text


def _fault(fault: Any, source: Mapping[str, str]) -> str:
    text = sentence(fault)
    if not fault["loc"]:  # two settings that do not go together; the text names them
        return text
    name = str(fault["loc"][0])
    where = source.get(name, "its default")
    if fault["type"] == "missing":
        return (
            f"{name} is not set: put `{name} = ...` into {DEFAULT_FILE} "
            f"or set {ENV_PREFIX}{name.upper()}"
        )
    if fault["type"] == "extra_forbidden":
        return f"{name} ({where}) is no setting of the agent; `fieldfare-agent settings` lists them"
    given = repr(fault["input"])
    shown = f", not {given}" if len(given) <= SHOWN_CHARACTERS_MAX else ""
    inner = "".join(f"[{step!r}]" for step in fault["loc"][1:])
    return f"{name}{inner} ({where}): {text}{shown}; `fieldfare-agent settings` says what it is for"
