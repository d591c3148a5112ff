"""The agent's settings: one declaration each, from a TOML file and the environment.

Owns names, defaults, bounds and sentences. Never touches the network or a store.
The environment variable `FIELDFARE_AGENT_<NAME>` overrides the file; lists and tables in it are
JSON.
"""

import json
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sync.documents import RESERVED_DEVICE_IDS, check_id
from sync.topics import check_group

ENV_PREFIX: Final = "FIELDFARE_AGENT_"
DEFAULT_FILE: Final = Path("/etc/fieldfare/agent.toml")
SOCKET_PATH_BYTES_MAX: Final = 107
"""Longest path that a Unix socket address holds (sys/un.h)."""

Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class BadSettings(ValueError):
    """A setting is wrong. Whoever wrote it is to blame; the agent did not start."""


class Settings(BaseModel):
    """Settings of the agent. Durations are in seconds, sizes in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(description="Name of this device: 1 to 63 of a-z, 0-9 and -.")
    hub_url: str = Field(
        "http://127.0.0.1:8420", description="Where releases are fetched from.", max_length=500
    )
    broker_host: str = Field("127.0.0.1", description="Name or address of the MQTT broker.")
    broker_port: int = Field(18830, ge=1, le=65535, description="TCP port of the MQTT broker.")
    mqtt_version: Literal["auto", "3.1.1", "5"] = Field(
        "auto", description="MQTT version; `auto` tries 5 first and falls back."
    )
    keepalive_s: int = Field(
        30, ge=1, le=3600, description="Silence after which the link to the broker is probed."
    )
    reconnect_max_s: Seconds = Field(
        60.0, description="Longest wait between two attempts to reach the broker."
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
    install_attempts_max: int = Field(
        5, ge=1, le=100, description="Tries to install one release before it is given up."
    )
    fetch_attempts_max: int = Field(
        8, ge=1, le=1000, description="Tries to fetch one file before the install fails."
    )
    fetch_stall_s: Seconds = Field(
        30.0, description="Silence after which a download is broken off and resumed."
    )
    release_bytes_max: int = Field(
        2 * 1024**3, ge=1, description="Most bytes that a release may take once unpacked."
    )
    disk_reserve_bytes: int = Field(
        16 * 1024**2, ge=0, description="Free disk space that a download never touches."
    )
    python: str = Field(
        sys.executable, description="Interpreter that `{python}` in commands stands for."
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
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @field_validator("local_socket")
    @classmethod
    def _local_socket(cls, value: Path | None) -> Path | None:
        if value is not None and len(os.fsencode(value)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"a socket path has at most {SOCKET_PATH_BYTES_MAX} bytes")
        return value

    @property
    def socket_path(self) -> Path:
        """Where applications find the agent."""
        return self.local_socket or self.state_dir / "agent.sock"


def load(file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of `file` and `environment`, the latter prevailing.

    Without `file`, `/etc/fieldfare/agent.toml` is read if it is there.

    Raises:
        BadSettings: Says where, which setting and what to do.
    """
    fields: dict[str, Any] = {}
    source: dict[str, str] = {}
    path = file if file is not None else DEFAULT_FILE
    if file is not None or DEFAULT_FILE.exists():
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
    if declared is not None and field in ("groups", "labels", "local_allowed_uids"):
        try:
            return json.loads(text)
        except ValueError:
            return text.split(",") if field != "labels" else text
    return text


def _fault(fault: Any, source: Mapping[str, str]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    where = source.get(name, "no file and no environment variable sets it")
    if fault["type"] == "missing":
        return (
            f"{name} is not set: put `{name} = ...` into {DEFAULT_FILE} "
            f"or set {ENV_PREFIX}{name.upper()}"
        )
    if fault["type"] == "extra_forbidden":
        return f"{name} ({where}) is no setting of the agent; `fieldfare-agent settings` lists them"
    return f"{name} ({where}): {fault['msg'].removeprefix('Value error, ')}"
