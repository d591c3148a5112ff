"""What devices send becomes durable: one batch of messages, one transaction, then the answers.

Owns the way of a batch. Runs on the writer's thread, inside a transaction; never begins or ends
one, never publishes. What `take` returns may go out only after the transaction has ended well.

Rules: a device is who its topic says, never who its message says. What one device sends is bounded
in size, number and cost (`hub.flood`), and counted under its name when it is wrong; the others'
messages in the same batch are not touched by it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from hub.correspondence import Correspondence
from hub.flood import BYTES_PER_TOKEN, HELD_BYTES_PER_TOKEN, Flood
from hub.offences import Offence, Offences
from hub.store import devices, documents, journal
from hub.store import presence as presence_store
from hub.store.database import Connection, load_number, save_number
from hub.store.devices import Stored
from hub.store.projection import Changes
from hub.timing import Timing
from hub.presence import BadPresence, Presence, counts, is_news, parse_presence
from hub.projection import row_of
from sync.documents import ACK, LOCAL, BadName, DocumentName, Kind, parse_ack_key
from sync.follower import Followed, follow
from sync.hlc import observe
from sync.messages import (
    BadFrame,
    Diff,
    Fetch,
    Frame,
    Full,
    Have,
    Message,
    Open,
    Refuse,
    Whole,
    decode_frame,
    in_frames,
)
from sync.records import BadRecord, Local, decode_as
from sync.replica import Holding
from sync.topics import ROOT, VERSION, BadTopic, Topic, TopicKind, parse_topic
from sync.transport.port import Delivery
from sync.vector import encode_vector

HEARD_EVERY_MS: Final = 600_000
"""How precisely it is kept when a device was heard that sent nothing new; a document that changed
says it to the millisecond, and costs no row of its own."""
