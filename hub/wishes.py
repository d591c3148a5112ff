"""What an operator wishes a setting to be, for one device or for a group.

Owns the check of a wish and its way into the hub's documents. Runs on the writer's thread in one
transaction; never publishes.
"""

import json
from typing import Any, Final

from hub.desired import DesiredDocuments
from hub.entries import HLC
from hub.errors import NotFound, Refusal, TooLarge
from hub.store import devices, documents, queries
from hub.store.database import Connection, load_number, save_number
from sync.documents import DESIRED, SETTING_KEY_PATTERN, DocumentName, Kind
from sync.hlc import tick
from sync.overlay import Policy
from sync.records import SETTING_BYTES_MAX, Desired, encode, select
from sync.replica import values_of

WRITER: Final = "operator"


def check_key(key: str) -> str:
    """Return the key if an application or an operator may use it.

    Raises:
        Refusal: It may not.
    """
    if not SETTING_KEY_PATTERN.match(key):
        raise Refusal(
            f"{key[:64]!r} cannot name a setting: use 1 to 63 of a-z, 0-9, dot, _ and -, "
            "starting with a letter or digit"
        )
    return key


def check_policy(policy: str) -> Policy:
    """Return who prevails when both sides have set a value.

    Raises:
        Refusal: There is no such policy.
    """
    try:
        return Policy(policy)
    except ValueError:
        known = ", ".join(Policy)
        raise Refusal(f"there is no policy {policy[:40]!r}; there are: {known}") from None


def text_of(value: Any) -> str:
    """Return a JSON value as the text that is stored.

    Raises:
        TooLarge: It is too long.
        Refusal: It cannot be written as UTF-8.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        length_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise Refusal("the value must be text that can be written as UTF-8") from None
    if length_bytes > SETTING_BYTES_MAX:
        raise TooLarge(
            f"the value has {length_bytes} bytes as JSON, at most {SETTING_BYTES_MAX} are kept"
        )
    return text


def wish(
    connection: Connection,
    desired: DesiredDocuments,
    document: DocumentName,
    key: str,
    value: str | None,
    policy: Policy,
    now_ms: int,
) -> Desired:
    """Write a wish (None takes it back) into `document` and return its record.

    Raises:
        NotFound: The device is not registered, or there is no wish to take back.
        Clash: The document is full.
    """
    saw = 0
    if document.kind is Kind.DESIRED:
        n = devices.number_of(connection, document.about)
        if n is None:
            raise NotFound(
                f"no device {document.about!r} is registered here: a device registers by connecting"
            )
        saw = queries.local_clock(connection, n, key)
    if value is None:
        standing = select(Desired, DESIRED, values_of(documents.load(connection, document)))
        if key not in standing or standing[key].value is None:
            raise NotFound(f"nothing is wished for {key} on {document.about}")
    clock = tick(load_number(connection, HLC), now_ms)
    save_number(connection, HLC, clock)
    record = Desired(clock, value, saw, policy.value, WRITER)
    desired.write(connection, document, {DESIRED + key: encode(record)}, now_ms)
    return record
