"""The hub's settings: what a person can choose, with a bound and a sentence each.

Owns their names, defaults and checks. Never touches what a setting names; that is left to whoever
uses it.
A setting comes from the TOML file, and from an environment variable `FIELDFARE_HUB_<NAME>`, which
wins. Names are used in files of other people; never reuse one.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from hub.errors import BadSettings
from sync.enrolment import check_address
from sync.manifest import ARTIFACT_BYTES_MAX
from sync.wording import sentence

ENV_PREFIX: Final = "FIELDFARE_HUB_"

NOT_SETTINGS: Final = frozenset({"FIELDFARE_HUB_URL"})
"""Variables of the commands that ask a hub, which only look like settings of one."""

EMBEDDED: Final = "embedded"
"""Value of `broker` that asks for a broker of the hub's own."""

PORT_MAX: Final = 65_535

WEBHOOKS_MAX: Final = 8

LINK_MAX_S: Final = 7 * 86_400
"""S3 signs addresses for no longer."""

_STORE_URL: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]{0,200})?")

Port = Annotated[int, Field(ge=0, le=PORT_MAX)]


class Settings(BaseModel):
    """Settings of the hub. Durations are in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dir: Path = Field(
        default=Path("/var/lib/fieldfare-hub"),
        description="Folder for the database, the artifacts and the embedded broker.",
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="Address the HTTP API listens on. Another than loopback needs TLS, by "
        "`tls_certificate` and `tls_key` or by a proxy: tokens must not travel in clear.",
    )
    http_port: Port = Field(
        default=8420, description="TCP port of the HTTP API and the artifacts; 0 takes a free one."
    )
    http_names: tuple[str, ...] = Field(
        default=(),
        description="Names, with commas between them, by which the API may be asked besides those "
        "of its own machine: the names in its certificate, or those of the proxy.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="Certificate of the HTTP API with its chain, PEM; none for HTTP."
    )
    tls_key: Path | None = Field(
        default=None, description="Key of that certificate, PEM, without a password."
    )
    proxy_address: str | None = Field(
        default=None,
        description="IP address of a proxy that does TLS before the hub, and says who asks in "
        "X-Forwarded-For and how in X-Forwarded-Proto. Nobody else is believed these.",
    )
    broker: str = Field(
        default=EMBEDDED,
        description="`embedded` runs a broker as a child of the hub; `host:port` names another.",
    )
    broker_port: Port = Field(
        default=18830,
        description="TCP port of the embedded broker on loopback; 0 takes a free one.",
    )
    broker_username: str | None = Field(
        default=None, description="Name to sign in with at a broker that is not embedded."
    )
    broker_password: SecretStr | None = Field(
        default=None, description="Password to sign in with at a broker that is not embedded."
    )
    mqtt_version: Literal["auto", "3.1.1", "5"] = Field(
        default="auto", description="MQTT version to speak; `auto` tries 5 first and falls back."
    )
    broker_tls: bool = Field(
        default=False,
        description="Whether the broker is reached over TLS 1.3 with certificates of the hub's own "
        "authority. Devices that are not enrolled are then not listened to. Not for `embedded`.",
    )
    broker_crl: Path | None = Field(
        default=None,
        description="File that the hub keeps up to date with the list of revoked certificates, for "
        "the broker to read.",
    )
    https_host: str = Field(
        default="127.0.0.1", description="Address on which devices reach the hub over HTTPS."
    )
    https_port: Port | None = Field(
        default=None,
        description="TCP port of that; 0 takes a free one. Without it no device can enrol.",
    )
    https_names: tuple[str, ...] = Field(
        default=("localhost",),
        max_length=20,
        description="Host names and addresses by which devices reach the hub, the first of which "
        "claim tokens name; in a variable with commas between them.",
    )
    certificate_life_s: Annotated[float, Field(ge=5, le=10 * 365 * 86_400)] = Field(
        default=90 * 86_400.0, description="How long a device's certificate counts."
    )
    certificate_grace_s: Annotated[float, Field(ge=0, le=30 * 365 * 86_400)] = Field(
        default=365 * 86_400.0,
        description="How long after that it can still be renewed by the device's key.",
    )
    silence_s: Annotated[float, Field(ge=1, le=30 * 86_400)] = Field(
        default=60.0,
        description="How long a device may be connected without taking a deployment before it "
        "counts as silent. What devices usually take can make it longer, never shorter.",
    )
    limit_execution_gap_s: Annotated[float, Field(ge=1, le=366 * 86_400)] = Field(
        default=2 * 86_400.0,
        description="95 % of the devices acknowledge a deployment within this, or it is a breach.",
    )
    limit_handshake_s: Annotated[float, Field(ge=1, le=366 * 86_400)] = Field(
        default=600.0,
        description="95 % of the devices take a deployment within so much connected time.",
    )
    limit_failed_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.015,
        description="Share of finished updates that may be undone or given up.",
    )
    limit_human_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.30, description="Share of finished updates in which a person may have to help."
    )
    limit_crashed_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05,
        description=(
            "Share of devices that may have had an hour with a crash or an unexpected boot when a "
            "deployment is looked at."
        ),
    )
    limit_canary_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="By so much canaries may fail more often than the rest."
    )
    limit_look_after_s: Annotated[float, Field(ge=60, le=366 * 86_400)] = Field(
        default=86_400.0,
        description=(
            "What can be looked at only once (slower calls, crashes) is looked at so long after a "
            "deployment was accepted or a flag dealt out."
        ),
    )
    limit_adopted_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.99, description="Share of active devices that should run the latest version."
    )
    limit_passed_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.9, description="Share of devices that should take each step of provisioning."
    )
    limit_devices_min_count: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10, description="With fewer devices the pace of a fleet is not judged to be ok."
    )
    active_window_s: Annotated[float, Field(ge=60, le=366 * 86_400)] = Field(
        default=7 * 86_400.0, description="A device heard from within this time counts as active."
    )
    batch_max_count: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1000, description="Most messages that share one durable write."
    )
    devices_max_count: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=200_000,
        description="Most devices that are registered by themselves; later ones are turned away.",
    )
    new_devices_per_hour_max_count: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=10_000,
        description="Most devices that may be new within an hour; more are registered later, when "
        "they speak again.",
    )
    device_messages_per_s: Annotated[float, Field(gt=0, le=10_000)] = Field(
        default=20.0,
        description="Messages that one device may send in the long run; more are dropped, which "
        "delays them. A long one counts for several.",
    )
    device_burst_count: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=400, description="Messages that one device may send at once before the rate counts."
    )
    blob_max_bytes: Annotated[int, Field(ge=1, le=ARTIFACT_BYTES_MAX)] = Field(
        default=ARTIFACT_BYTES_MAX, description="Largest artifact that can be uploaded."
    )
    packs_max_count: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=200,
        description="Most packs between releases that are kept; those that were not asked for the "
        "longest go first. 0 makes none.",
    )
    pack_make_s: Annotated[float, Field(ge=1, le=86_400)] = Field(
        default=600.0, description="CPU time that making one pack may take."
    )
    pack_tree_bytes_max: Annotated[int, Field(ge=1, le=ARTIFACT_BYTES_MAX)] = Field(
        default=2 * 1024**3,
        description="Largest release, unpacked, that packs are made for. While one is made, the "
        "disk holds three of them.",
    )
    artifact_store_url: str | None = Field(
        default=None,
        description="`s3://bucket/prefix`: artifacts are kept there, and devices fetch them from "
        "there. None keeps them in the state directory.",
    )
    artifact_store_endpoint: str | None = Field(
        default=None,
        description="Address of the bucket's server, such as `https://s3.example.org`; that of the "
        "region at Amazon if none.",
    )
    artifact_store_device_endpoint: str | None = Field(
        default=None,
        description="The same as devices reach it, if that is another. They follow `https` only, "
        "and `http` on loopback.",
    )
    artifact_store_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = Field(
        default="us-east-1", description="Region that the bucket's server expects in signatures."
    )
    artifact_store_key_id: str | None = Field(
        default=None,
        description="Id of the key to the bucket. Without one the usual places count: "
        "`AWS_ACCESS_KEY_ID` and what goes with it, then what the machine was given.",
    )
    artifact_store_secret: SecretStr | None = Field(
        default=None, description="Secret half of the key to the bucket."
    )
    artifact_store_secret_file: Path | None = Field(
        default=None, description="File that holds the secret instead, on one line."
    )
    artifact_store_keep_bytes: Annotated[int, Field(ge=0, le=2**50)] = Field(
        default=1024**3,
        description="Most bytes of artifacts that stay in the state directory as well once they "
        "are in the bucket; those not asked for the longest go first.",
    )
    artifact_store_stall_s: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        default=30.0,
        description="Longest that one request to the bucket may take; one carries at most 8 MiB.",
    )
    artifact_link_s: Annotated[int, Field(ge=0, le=LINK_MAX_S)] = Field(
        default=3600,
        description="How long an address that a device is sent to in the bucket is good. 0 sends "
        "no device there, and the hub passes everything on itself.",
    )
    http_connections_max_count: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=500,
        description="Most HTTP connections that are served at once; further ones are told to come "
        "again (503).",
    )
    http_stall_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0,
        description="Longest that an HTTP connection may say nothing in the middle of a request, "
        "or take nothing of an answer.",
    )
    http_min_bytes_per_s: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=1024,
        description="How fast the body of an HTTP request must come at least, after the first "
        "`http_stall_s`.",
    )
    bootstrap_token_file: Path | None = Field(
        default=None,
        description="File that gets the token of the first admin at the first start, for its owner "
        "alone; without it that token is printed once.",
    )
    audit_max_count: Annotated[int, Field(ge=1000, le=10_000_000)] = Field(
        default=200_000,
        description="Most rows that the audit keeps, of at most 3 KB; the oldest go first, and a "
        "row says so.",
    )
    webhook_urls: tuple[str, ...] = Field(
        default=(),
        description="Addresses, with commas between them, that are told what happens, as "
        "CloudEvents: https, or http on this machine. At most 8.",
    )
    webhook_secret_file: Path | None = Field(
        default=None,
        description="File with the secret by which receivers know that it is the hub: `whsec_` "
        "and base64 of at least 24 bytes, for its owner alone. Without it nothing is signed.",
    )
    webhook_give_up_s: Annotated[float, Field(ge=60, le=90 * 86_400)] = Field(
        default=3 * 86_400.0,
        description="How long one event is offered to a receiver before the next one is.",
    )
    webhook_look_s: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        default=10.0, description="Pause between two looks at what there is to tell."
    )
    otlp_url: str | None = Field(
        default=None,
        description="Address that takes measures by OTLP over HTTP, `https://.../v1/metrics`. "
        "Needs the extra `otlp`.",
    )
    otlp_every_s: Annotated[float, Field(ge=1, le=86_400)] = Field(
        default=60.0, description="Pause between two sendings of measures."
    )
    otlp_headers_file: Path | None = Field(
        default=None,
        description="File with headers for that address, one `name: value` a line, for its owner "
        "alone: what a collector knows the hub by.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important lines that are written to standard error."
    )

    @field_validator("state_dir", mode="before")
    @classmethod
    def _name_a_folder(cls, folder: object) -> object:
        if folder == "":
            raise ValueError("it is empty; name a folder")
        return folder

    @field_validator("http_host")
    @classmethod
    def _name_an_address(cls, host: str) -> str:
        if host == "localhost":
            return "127.0.0.1"
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                f"{host!r} is no IP address; name a loopback address (127.0.0.1 or ::1), or "
                "another with TLS"
            ) from None
        return host

    @field_validator("https_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_address(f"[{name}]:1" if ":" in name else f"{name}:1")
        if not names:
            raise ValueError("name at least one")
        return names

    @model_validator(mode="after")
    def _no_tls_embedded(self) -> Self:
        if self.broker_tls and self.broker == EMBEDDED:
            raise ValueError(
                "broker_tls is not for the embedded broker, which listens on this machine only: "
                "write a configuration with `fieldfare hub broker-config` and name that broker"
            )
        return self

    @field_validator("webhook_urls", "otlp_url")
    @classmethod
    def _name_receivers(cls, given: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        for url in (given,) if isinstance(given, str) else given or ():
            check_receiver(url)
        if isinstance(given, tuple) and len(given) > WEBHOOKS_MAX:
            raise ValueError(f"has {len(given)} addresses; at most {WEBHOOKS_MAX} are told")
        return given

    @field_validator("http_names", "https_names", "webhook_urls", mode="before")
    @classmethod
    def _split_names(cls, names: object) -> object:
        if isinstance(names, str):
            return tuple(filter(None, (name.strip() for name in names.split(","))))
        return names

    @field_validator("proxy_address")
    @classmethod
    def _name_a_proxy(cls, address: str | None) -> str | None:
        if address is not None:
            ipaddress.ip_address(address)
        return address

    @model_validator(mode="after")
    def _keep_tokens_private(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both, or neither")
        is_private = self.tls_certificate is not None or self.proxy_address is not None
        if not is_private and not ipaddress.ip_address(self.http_host).is_loopback:
            raise ValueError(
                f"http_host {self.http_host!r} is not a loopback address, and tokens must not "
                "travel in clear: set tls_certificate and tls_key, or proxy_address if a proxy "
                "does TLS, or listen on 127.0.0.1 or ::1"
            )
        return self

    @field_validator("broker")
    @classmethod
    def _name_a_broker(cls, broker: str) -> str:
        if broker != EMBEDDED:
            split_address(broker)
        return broker

    @field_validator("artifact_store_url")
    @classmethod
    def _name_a_bucket(cls, url: str | None) -> str | None:
        if url is not None and _STORE_URL.fullmatch(url) is None:
            raise ValueError("it is not s3://bucket/prefix; credentials have settings of their own")
        return url

    @field_validator("artifact_store_endpoint", "artifact_store_device_endpoint")
    @classmethod
    def _name_a_server(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.path not in {"", "/"}
            or parts.query
            or "@" in parts.netloc
        ):
            raise ValueError("it is not http(s)://host or http(s)://host:port")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _pair_the_key(self) -> "Settings":
        secrets = [self.artifact_store_secret, self.artifact_store_secret_file]
        count = sum(each is not None for each in secrets)
        if count != (self.artifact_store_key_id is not None):
            raise ValueError(
                "artifact_store_key_id needs artifact_store_secret or artifact_store_secret_file, "
                "one of them, and they need it"
            )
        return self

    def artifact_store_credentials(self) -> tuple[str, str] | None:
        """Return id and secret of the key to the bucket, None if they are found elsewhere.

        Raises:
            BadSettings: The file that holds the secret cannot be read, or is empty.
        """
        if self.artifact_store_key_id is None:
            return None
        file = self.artifact_store_secret_file
        if file is None:
            assert self.artifact_store_secret is not None  # noqa: S101 - _pair_the_key
            return self.artifact_store_key_id, self.artifact_store_secret.get_secret_value()
        try:
            secret = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise BadSettings(
                f"artifact_store_secret_file {file} cannot be read: {reason}"
            ) from None
        if not secret or len(secret.split()) != 1:
            raise BadSettings(f"artifact_store_secret_file {file} does not hold one secret")
        return self.artifact_store_key_id, secret

    @property
    def broker_address(self) -> tuple[str, int] | None:
        """Return host and port of the broker, None if it is the embedded one."""
        return None if self.broker == EMBEDDED else split_address(self.broker)


def check_receiver(url: str) -> None:
    """Let an address pass that the hub may send to.

    Raises:
        ValueError: It is none, holds a password, or goes over a network in clear.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"is no https address: {url[:200]!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a password, and addresses are shown in logs")
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise ValueError(f"goes over a network in clear, use https: {url[:200]!r}")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[ipv6]:port`.

    Raises:
        ValueError: It is neither.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= PORT_MAX:
        raise ValueError(f"{address!r} is neither {EMBEDDED!r} nor host:port")
    return host, int(port)


def load_settings(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    chosen: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings from `file`, then the environment, then `chosen` (a command line).

    Raises:
        BadSettings: The file cannot be read, or a setting is unknown or out of bounds.
    """
    fields: dict[str, Any] = _read(file) if file is not None else {}
    sources: dict[str, str] = dict.fromkeys(fields, str(file))
    for variable, value in environment.items():
        if variable.startswith(ENV_PREFIX) and variable not in NOT_SETTINGS:
            name = variable.removeprefix(ENV_PREFIX).lower()
            fields[name], sources[name] = value, variable
    for name, choice in (chosen or {}).items():
        fields[name], sources[name] = choice, "the command line"
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        faults = [_explain(dict(fault), sources) for fault in error.errors(include_url=False)[:5]]
        raise BadSettings("; ".join(faults)) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSettings(f"the settings in {file} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"the settings in {file} are not TOML: {error}") from None


def _explain(fault: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    if not fault["loc"]:
        return f"settings do not fit together: {sentence(fault)}"
    name = str(fault["loc"][0])
    source = f" (from {sources[name]})" if name in sources else ""
    if fault["type"] == "extra_forbidden":
        known = ", ".join(Settings.model_fields)
        return f"there is no setting {name!r}{source}; there are: {known}"
    if not fault["loc"]:  # settings that do not go together; the text names them
        return str(fault["msg"]).removeprefix("Value error, ")
    return f"the setting {name}{source} is wrong: it {sentence(fault)}"
