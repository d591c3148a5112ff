"""Settings of applications on this device: what was set here, what an operator wants, what counts.

Owns the operations behind the local socket and the recording of conflicts.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from agent.desired import conflicts, desired_settings
from agent.documents import Documents
from agent.local import BadRequest
from agent.store import StoreError
from sync import documents as names
from sync import overlay, records
from sync.records import SETTING_BYTES_MAX, Conflict, Desired, Local

KEYS_MAX: Final = 200
LIVE_BYTES_MAX: Final = 24 * 1024
"""Keys and values of the device's document beyond which no application may add to it: a hub takes
in 96 KiB, engine's share included, and acknowledgements must always have room."""


class Values:
    """The settings of applications on this device."""

    def __init__(self, documents: Documents, *, on_written: Callable[[], None]) -> None:
        """`on_written` is called after each change that the hub should hear of."""
        self._documents = documents
        self._on_written = on_written

    async def get(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `get`: the effective value of one key, null if nobody has set it."""
        key = _key(request)
        return {"key": key, **self._row(key, self._local(), self._desired())}

    async def list_all(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `list`: every known key with its values."""
        return {"settings": self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """Return every known key with its values, by name."""
        local, desired = self._local(), self._desired()
        keys = sorted(local.keys() | desired.keys())
        return [{"key": key, **self._row(key, local, desired)} for key in keys]

    async def set(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `set`: store the application's own value durably."""
        key = _key(request)
        if "value" not in request:
            raise BadRequest('"set" needs a "value"')
        text = _json(request["value"])
        reported = self._documents.reported()
        live_bytes = sum(len(name) + len(value) for name, value in reported.items())
        if live_bytes + len(key) + len(text.encode()) > LIVE_BYTES_MAX:
            raise BadRequest("the settings of this device are full: take some back first")
        local = self._local()
        if key not in local and len(local) >= KEYS_MAX:
            raise BadRequest(f"at most {KEYS_MAX} keys can be set on a device")
        return await self._write(key, text)

    async def unset(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `unset`: take the application's own value back."""
        key = _key(request)
        if key not in self._local():
            raise BadRequest(f"{key} was not set by an application on this device")
        return await self._write(key, None)

    async def record_conflicts(self) -> bool:
        """Write down new and settled conflicts; True if there were any."""
        recorded = records.select(Conflict, names.CONFLICT, self._documents.reported())
        local, desired = self._local(), self._desired()
        if not conflicts(local, desired, recorded, 0):
            return False
        due = conflicts(local, desired, recorded, self._documents.next_clock())
        await self._documents.write(
            {names.CONFLICT + key: _bounded(record) for key, record in due.items()}
        )
        return True

    async def _write(self, key: str, text: str | None) -> dict[str, Any]:
        wish = self._desired().get(key)
        if wish is not None:
            self._documents.heard_clock(wish.clock)
        record = Local(
            self._documents.next_clock(), text, wish.clock if wish is not None else 0, "local"
        )
        try:
            await self._documents.write({names.LOCAL + key: records.encode(record)})
            await self.record_conflicts()
        except StoreError as error:
            raise BadRequest(f"not stored: {error}") from None
        self._on_written()
        return {"key": key, **self._row(key, self._local(), self._desired())}

    def _local(self) -> dict[str, Local]:
        return records.select(Local, names.LOCAL, self._documents.reported())

    def _desired(self) -> dict[str, Desired]:
        return desired_settings(self._documents.wanted())

    def _row(
        self, key: str, local: Mapping[str, Local], desired: Mapping[str, Desired]
    ) -> dict[str, Any]:
        mine, wish = local.get(key), desired.get(key)
        counts = overlay.effective(mine, wish)
        return {
            "value": _plain(counts.value),
            "winner": counts.winner.value,
            "local": _plain(mine.value if mine is not None else None),
            "desired": _plain(wish.value if wish is not None else None),
            "conflict": counts.conflict,
        }


def _bounded(conflict: Conflict) -> bytes:
    """Return the record; without the values if a wish is longer than any hub of ours allows."""
    encoded = records.encode(conflict)
    if len(encoded) <= records.VALUE_BYTES_MAX:
        return encoded
    return records.encode(
        msgspec.structs.replace(conflict, local=None, desired=None, effective=None)
    )


def _key(request: Mapping[str, Any]) -> str:
    key = request.get("key")
    if not isinstance(key, str) or not names.SETTING_KEY_PATTERN.match(key):
        raise BadRequest('"key" must be 1 to 63 of a-z, 0-9, ".", "_" and "-"')
    return key


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        length_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest("a value must be text that can be written as UTF-8") from None
    if length_bytes > SETTING_BYTES_MAX:
        raise BadRequest(f"a value has at most {SETTING_BYTES_MAX} bytes as JSON")
    return text


def _plain(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
