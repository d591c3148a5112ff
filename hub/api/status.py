"""What the hub says about itself. Owns that answer; reads nothing but memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def program_version() -> str:
    """Return the version of this program, `unknown` if it runs without being installed."""
    try:
        return version("fieldfare")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What there is to say."""

    run: str
    """Id of this start of the hub, as devices see it."""
    broker_kind: str
    broker_host: str
    broker_port: int
    started_at_ms: int
    is_connected: Callable[[], bool]
    counters: Callable[[], Mapping[str, int]]

    def view(self) -> dict[str, Any]:
        """Return it as the API gives it."""
        return {
            "version": program_version(),
            "run": self.run,
            "broker": {
                "kind": self.broker_kind,
                "host": self.broker_host,
                "port": self.broker_port,
                "connected": self.is_connected(),
            },
            "started_at_ms": self.started_at_ms,
            "counters": dict(self.counters()),
        }
