"""What device and hub say to each other: seven messages, and the frame that carries them.

Owns their wire form and the limits on it. Never decides what to say (`sync.session`).
Every message names its document; a frame says when it was sent, by the sender's own clock.

Form: MessagePack arrays with a leading integer tag. Tags and positions are never reused; fields are
only ever appended, with a default.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from sync.documents import BadName, DocumentName, parse_document
from sync.gate import UPDATE_BYTES_MAX
from sync.lib0 import Malformed
from sync.vector import decode_vector

FRAME_BYTES_MAX = 256 * 1024
"""Longest frame: one whole document and room for its neighbours."""

MESSAGES_MAX = 64
"""Most messages in one frame."""

FRAME_VERSION = 1

Name = Annotated[str, Meta(min_length=3, max_length=70)]
"""A document, `grp/all`; without its second half, `dev`, the one of the device on the line."""

Epoch = Annotated[int, Meta(ge=0, le=2**53 - 1)]
VectorBytes = Annotated[bytes, Meta(max_length=4096)]
Update = Annotated[bytes, Meta(max_length=UPDATE_BYTES_MAX)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class BadFrame(ValueError):
    """The bytes are no frame of ours. Their sender is to blame; nothing was changed."""


class Open(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A writer to a follower: this is what I have; what do you have?"""

    document: Name
    epoch: Epoch
    vector: VectorBytes
    digest: Annotated[bytes, Meta(max_length=16)] = b""


class Have(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A follower to a writer: I hold this durably. Answers everything, asked or not."""

    document: Name
    epoch: Epoch
    vector: VectorBytes
    digest: Annotated[bytes, Meta(max_length=16)] = b""
    """Of the live values; sent in answer to `Open` only, since it costs reading the document."""


class Diff(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A writer to a follower: everything since the vector you last said you hold."""

    document: Name
    epoch: Epoch
    update: Update
    result: Annotated[bytes, Meta(max_length=8)] = b""
    """`sync.vector.tag_of` the vector that the follower must have afterwards. Where it would have
    another, the two histories have forked, and a fork is never merged."""


class Full(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A writer to a follower: a whole new epoch, and which older holdings it has taken in."""

    document: Name
    epoch: Epoch
    update: Update
    absorbed: Annotated[list[tuple[Epoch, VectorBytes]], Meta(max_length=16)] = []


class Fetch(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A writer to a follower: you hold writes of mine that I lack; send me all you have."""

    document: Name


class Whole(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A follower to a writer: all I have."""

    document: Name
    epoch: Epoch
    update: Update


class Refuse(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A follower to a writer: that was not acceptable, and why (`sync.gate.Refusal`)."""

    document: Name
    epoch: Epoch
    code: Annotated[str, Meta(max_length=40)]


Message = Open | Have | Diff | Full | Fetch | Whole | Refuse


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A batch of messages and the sender's clock."""

    version: Annotated[int, Meta(ge=1, le=255)]
    sender: Annotated[bytes, Meta(max_length=8)]
    """Device: first six bytes of the boot id. Hub: its run id."""
    sent_ms: Milliseconds
    """Device: CLOCK_BOOTTIME. Hub: UTC."""
    anchor: tuple[Milliseconds, Milliseconds] | None
    """Device only: (`sent_ms` of the last frame from the hub, CLOCK_BOOTTIME at its arrival)."""
    messages: Annotated[list[Message], Meta(max_length=MESSAGES_MAX)]


_FRAMES = msgspec.msgpack.Decoder(Frame)
_ENCODER = msgspec.msgpack.Encoder()


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of `frame`."""
    return _ENCODER.encode(frame)


def decode_frame(payload: bytes) -> Frame:
    """Return the frame in `payload`.

    Raises:
        BadFrame: Too long, of another version, or not a frame.
    """
    if len(payload) > FRAME_BYTES_MAX:
        raise BadFrame(f"{len(payload)} bytes, at most {FRAME_BYTES_MAX} allowed")
    try:
        frame = _FRAMES.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadFrame(str(error)[:200]) from None
    if frame.version != FRAME_VERSION:
        raise BadFrame(f"frame version {frame.version}; this program speaks {FRAME_VERSION}")
    return frame


def document_of(message: Message, device: str) -> DocumentName:
    """Return the document that `message`, on the line of `device`, is about.

    Raises:
        BadFrame: It names none.
    """
    name = message.document
    try:
        return parse_document(name if "/" in name else f"{name}/{device}")
    except BadName as error:
        raise BadFrame(str(error)) from None


def vector_of(encoded: bytes) -> dict[int, int]:
    """Return a vector from a message.

    Raises:
        BadFrame: It cannot be read.
    """
    try:
        return decode_vector(encoded)
    except Malformed as error:
        raise BadFrame(f"state vector: {error}") from None


def name_on_line(document: DocumentName, device: str) -> str:
    """Return the shortest name of `document` on the line of `device`."""
    return document.kind.value if document.about == device else str(document)


def in_frames(
    messages: list[Message], *, sender: bytes, sent_ms: int, anchor: tuple[int, int] | None = None
) -> list[bytes]:
    """Return `messages` in as few frames as the limits allow, in their order.

    `anchor` travels in the first frame.
    """
    frames: list[bytes] = []
    batch: list[Message] = []
    batch_bytes = 0
    for message in messages:
        cost_bytes = _cost_bytes(message)
        if batch and (
            len(batch) == MESSAGES_MAX or batch_bytes + cost_bytes > FRAME_BYTES_MAX - 4096
        ):
            frames.append(encode_frame(Frame(FRAME_VERSION, sender, sent_ms, anchor, batch)))
            anchor, batch, batch_bytes = None, [], 0
        batch.append(message)
        batch_bytes += cost_bytes
    if batch:
        frames.append(encode_frame(Frame(FRAME_VERSION, sender, sent_ms, anchor, batch)))
    return frames


def _cost_bytes(message: Message) -> int:
    """Return at least as many bytes as `message` takes in a frame."""
    cost_bytes = 256  # names, numbers and headers
    match message:
        case Open() | Have():
            cost_bytes += len(message.vector)
        case Diff() | Whole():
            cost_bytes += len(message.update)
        case Full():
            cost_bytes += len(message.update) + sum(16 + len(seen) for _, seen in message.absorbed)
    return cost_bytes
