"""A peer that means harm: frames from honest-looking to absurd, drawn from one seed.

Owns the making of hostile bytes. Knows the formats as well as the code it attacks, so that what it
sends gets past the first checks. Never touches a victim.

Update format: Yjs update encoding version 1, see `sync.gate`.
"""

from collections.abc import Callable, Mapping
from random import Random

import msgspec

from sync.documents import HUB_CLIENT_ID_MIN, DocumentName, Kind, Side
from sync.gate import Gap, Refused, admit
from sync.lib0 import write_uint
from sync.messages import (
    FRAME_BYTES_MAX,
    Diff,
    Fetch,
    Frame,
    Full,
    Have,
    Message,
    Open,
    Refuse,
    Whole,
    encode_frame,
)
from sync.replica import Holding, Replica, digest_of, values_of
from sync.vector import Vector, encode_vector, tag_of

EDGES = (0, 1, 2, 63, 64, 127, 128, 255, 2**14, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53 - 1)
"""Numbers at which encodings and engines change their minds."""

EPOCHS = (0, 1, 2, 3, 2**20, 2**20 + 1, 2**32, 2**52, 2**52 + 1, 2**53 - 1)

NAMES = (
    *("dev", "tel", "des", "grp/all", "dev/d2", "des/d2", "tel/d2", "dev/hub", "grp/hub", "x/y"),
    *("dev/d1/..", "dev/", "/", "des/" + "a" * 66, "dev/D1", "dev/\u00e9", "grp/\x00"),
)

BLOCK_HEADS = (0, 1, 7, 8, 0x21, 0x27, 0x28, 0x81, 0x87, 0x88, 0xA8, 0xC8, 0x48, 0x08, 0x0A, 0x02,
               0x24, 0x29, 0x84, 0x89, 0x68, 0x80, 0x1F, 0xFF)  # fmt: skip
"""First bytes of structs: mostly the content kinds that occur, some that must not."""


def uints(*parts: int | bytes) -> bytes:
    """Return integers in their shortest form and bytes as they are."""
    out = bytearray()
    for part in parts:
        if isinstance(part, bytes):
            out += part
        else:
            write_uint(out, part)
    return bytes(out)


def inflated(value: int, length_bytes: int) -> bytes:
    """Return `value` in more bytes than it needs."""
    out = bytearray()
    for _ in range(length_bytes - 1):
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


class Stranger:
    """Draws one frame after another against a victim whose documents it can see."""

    def __init__(
        self,
        random: Random,
        device: str,
        writer: Side,
        held: Callable[[DocumentName], Holding | None],
    ) -> None:
        """Speak on the line of `device` as its `writer`, seeing what the victim holds."""
        self.random = random
        self.device = device
        self.writer = writer
        self.held = held
        kind = Kind.DEVICE if writer is Side.DEVICE else Kind.DESIRED
        self.written = DocumentName(kind, device)
        """The document that it may write."""
        other = Kind.DESIRED if writer is Side.DEVICE else Kind.DEVICE
        self.followed = DocumentName(other, device)
        """The document that the victim writes."""
        self.client_id = (HUB_CLIENT_ID_MIN if writer is Side.HUB else 0) + (7 << 16)

    def frame(self) -> bytes:
        """Return the next frame."""
        random = self.random
        roll = random.random()
        if roll < 0.05:
            return self._absurd()
        messages = [self._message() for _ in range(1 if roll < 0.95 else random.randrange(2, 12))]
        payload = self._encoded(messages)
        return self._mutated(payload) if random.random() < 0.1 else payload

    # ------------------------------------------------------------------------ messages
    def _message(self) -> Message:
        makers = [self._diff] * 4 + [self._full] * 3 + [self._small] * 5
        return self.random.choice(makers)()

    def _small(self) -> Message:
        """Return a message that carries no update of the document we write."""
        random = self.random
        name, epoch = self._name(self.followed), self._epoch(self.followed)
        messages: list[Message] = [
            Open(self._name(self.written), epoch, self._vector_bytes(), self._digest()),
            Fetch(self._name(self.written)),
            Refuse(name, epoch, random.choice(["engine", "", "epoch", "x" * 40])),
            Whole(name, epoch, self._update({}, self.held(self.followed))),
            Have(name, epoch, self._vector_bytes(), self._digest()),
        ]
        return random.choice(messages)

    def _diff(self) -> Diff:
        held = self.held(self.written)
        since = held.vector if held is not None else {}
        update = self._update(since, held)
        return Diff(self._name(self.written), self._epoch(self.written), update,
                    self._result(update, since))  # fmt: skip

    def _full(self) -> Full:
        held = self.held(self.written)
        epoch = self._epoch(self.written) + self.random.choice([0, 0, 1, 1, 2])
        absorbed = [
            (self._epoch(self.written), self._vector_bytes(held))
            for _ in range(self.random.choice([0, 1, 1, 2, 16]))
        ]
        return Full(self._name(self.written), epoch % 2**53, self._update({}, held), absorbed)

    def _result(self, update: bytes, since: Vector) -> bytes:
        """Return the tag that makes a follower merge `update`, if anything can."""
        try:
            return tag_of(admit(update, since, self.writer).forecast)
        except (Gap, Refused):
            return self.random.randbytes(4)

    def _name(self, document: DocumentName) -> str:
        return self.random.choice(NAMES) if self.random.random() < 0.05 else document.kind.value

    def _epoch(self, document: DocumentName) -> int:
        held = self.held(document)
        if held is None or self.random.random() < 0.2:
            return self.random.choice(EPOCHS)
        return max(0, held.epoch + self.random.choice([0, 0, 0, 0, 1, -1, 7]))

    def _digest(self) -> bytes:
        choices = [b"", self.random.randbytes(8), digest_of(values_of(self.held(self.followed)))]
        return self.random.choice(choices)

    def _vector_bytes(self, held: Holding | None = None) -> bytes:
        held = held or self.held(self.followed)
        vector = dict(held.vector) if held is not None else {}
        match self.random.randrange(6):
            case 0:
                vector = {}
            case 1:
                vector[self._client()] = self._number()
            case 2 if vector:
                client = self.random.choice(sorted(vector))
                vector[client] = max(0, vector[client] + self.random.randrange(-2, 3))
            case 3:
                vector |= {self.random.getrandbits(40): self._number() for _ in range(20)}
            case 4:
                return self._mutated(encode_vector(vector))[:4096]
        return encode_vector(vector)[:4096]

    # ------------------------------------------------------------------------ updates
    def _update(self, since: Vector, held: Holding | None) -> bytes:
        """Return an update that continues `since`: honest, honest and damaged, or made up."""
        roll = self.random.random()
        if roll < 0.3:
            return self._honest(since, held)
        if roll < 0.5:
            return self._mutated(self._honest(since, held))
        return self._made_up(since)

    def _honest(self, since: Vector, held: Holding | None) -> bytes:
        random = self.random
        if not since and random.random() < 0.5:
            held = None
        state = held.state if held is not None else b""
        self.client_id += random.choice([0, 0, 1, 1 << 16])
        replica = Replica(client_id=self.client_id, state=state)
        for _ in range(random.randrange(1, 6)):
            key = random.choice(["a/d0/D", "a/d1/K", "s/x", "c/k", "v/app", "r/d0", "d/k", "zz"])
            value = random.randbytes(random.choice([0, 1, 8, 60, 4096]))
            if key in {"c/k", "d/k"} and random.random() < 0.8:
                value = msgspec.msgpack.encode([self._number(), self._deep(3)])
            replica.write({key: value[:4096]})
            if random.random() < 0.1:
                replica.roll(dict(sorted(replica.values().items())[:5]))
        return replica.diff(since)

    def _made_up(self, since: Vector) -> bytes:
        """Return an update in the right syntax, with any meaning."""
        random = self.random
        out = bytearray()
        clients = sorted({self._client(since) for _ in range(random.choice([0, 1, 1, 1, 2, 3]))})
        if random.random() < 0.7:
            clients.reverse()
        write_uint(out, len(clients))
        for client in clients:
            start = since.get(client, 0)
            if random.random() < 0.2:
                start = max(0, start + random.choice([-2, -1, 1, 5]))
            blocks = random.choice([0, 1, 1, 2, 3, 5, 12])
            out += uints(blocks, client, start)
            clock = start
            for _ in range(blocks):
                clock += self._block(out, client, clock, since)
        self._deletes(out, since)
        return self._mutated(bytes(out)) if random.random() < 0.05 else bytes(out)

    def _block(self, out: bytearray, client: int, clock: int, since: Vector) -> int:
        random = self.random
        head = random.choice(BLOCK_HEADS[:11] if random.random() < 0.9 else BLOCK_HEADS)
        if clock == 0 and random.random() < 0.7:
            out += b"\x27\x01\x01r\x01g\x01"  # the generation, as honest documents begin
            return 1
        out.append(head)
        content = head & 0x1F
        if content == 0:
            length = self._length()
            write_uint(out, length)
            return length
        if head & 0x80:
            out += self._id(client, clock, since)
        if head & 0x40:
            out += self._id(client, clock, since)
        if not head & 0xC0:
            if random.random() < 0.15:
                out += uints(1, self._text(b"r"))
            else:
                out += uints(0, self._id(client, clock, since))
        if head & 0x20:
            out += self._text(random.choice([b"g", b"a/d0/K", b"s/x", b"c/k", b""]))
        return self._content(out, content)

    def _content(self, out: bytearray, content: int) -> int:
        random = self.random
        match content:
            case 1 | 10:
                length = self._length()
                write_uint(out, length)
                return length
            case 7:
                out.append(random.choice([1, 1, 1, 1, 0, 2, 3, 6, 15]))
                return 1
            case 8:
                count = random.choice([1] * 9 + [0, 2, 2**20])
                write_uint(out, count)
                for _ in range(min(count, 3)):
                    out += self._any(4)
                return max(1, min(count, 3))
            case _:
                out += self._text(random.randbytes(random.randrange(8)))
                return 1

    def _any(self, depth: int) -> bytes:
        random = self.random
        if random.random() < 0.85:
            value = random.randbytes(random.choice([0, 1, 9, 40]))
            return uints(b"\x74", len(value), value)
        kind = random.choice([127, 126, 125, 124, 123, 122, 121, 120, 119, 118, 117, 116, 0])
        if kind == 117 and depth:
            count = random.choice([0, 1, 2])
            return uints(b"\x75", count, b"".join(self._any(depth - 1) for _ in range(count)))
        return bytes([kind]) + random.randbytes(random.randrange(9))

    def _deletes(self, out: bytearray, since: Vector) -> None:
        random = self.random
        count = random.choice([0, 0, 0, 1, 2])
        write_uint(out, count)
        for _ in range(count):
            ranges = random.choice([0, 1, 1, 2])
            out += uints(self._client(since), ranges)
            for _ in range(ranges):
                out += uints(random.randrange(6), random.choice([0, 1, 1, 2, 5, 2**31]))

    def _client(self, since: Vector | None = None) -> int:
        random = self.random
        known = sorted(since or {})
        if known and random.random() < 0.6:
            return random.choice(known)
        if random.random() < 0.6:
            return self.client_id + random.choice([0, 1, 1 << 16])
        return random.choice([1, 99, 2**32, HUB_CLIENT_ID_MIN - 1, HUB_CLIENT_ID_MIN, 2**53 - 1])

    def _id(self, client: int, clock: int, since: Vector) -> bytes:
        """Return a reference, mostly to something before (`client`, `clock`)."""
        random = self.random
        if random.random() < 0.5:
            return uints(client, max(0, clock - random.randrange(1, 4)))
        if since and random.random() < 0.8:
            to_client = random.choice(sorted(since))
            return uints(to_client, random.choice([0, 0, max(0, since[to_client] - 1)]))
        return uints(self._client(since), self._number())

    def _length(self) -> int:
        return self.random.choice([1, 1, 1, 2, 3, 10, 0, 2**31 - 40, 2**31, 2**32 - 1])

    def _number(self) -> int:
        if self.random.random() < 0.5:
            return self.random.choice(EDGES)
        return self.random.randrange(40)

    def _text(self, text: bytes) -> bytes:
        if self.random.random() < 0.03:
            text = self.random.choice([b"", b"\xff\xfe", b"k" * 161, "\u00e9\U0001f600".encode()])
        return uints(len(text), text)

    # ------------------------------------------------------------------------ bytes
    def _mutated(self, payload: bytes) -> bytes:
        """Return `payload` with a few bytes changed, moved, repeated or lengthened."""
        random = self.random
        out = bytearray(payload)
        for _ in range(random.choice([1, 1, 2, 4])):
            if not out:
                break
            at = random.randrange(len(out))
            match random.randrange(7):
                case 0:
                    out[at] ^= 1 << random.randrange(8)
                case 1:
                    out[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
                case 2:
                    del out[at : at + random.randrange(1, 4)]
                case 3:
                    out[at:at] = random.randbytes(random.randrange(1, 4))
                case 4:
                    out[at : at + 1] = inflated(random.choice(EDGES), random.randrange(1, 11))
                case 5:
                    out += out[at : at + random.randrange(1, 40)]
                case _:
                    del out[at:]
        return bytes(out)

    def _encoded(self, messages: list[Message]) -> bytes:
        random = self.random
        anchor = (self._number(), self._number()) if random.random() < 0.1 else None
        version = random.choice([1] * 40 + [0, 2, 255])
        return encode_frame(Frame(version, random.randbytes(6), self._number(), anchor, messages))

    def _absurd(self) -> bytes:
        """Return bytes that are no frame, or one of forbidden shape."""
        random = self.random
        if random.random() < 0.05:
            return b"\x95" * 5 + random.randbytes(FRAME_BYTES_MAX + 10)
        return random.choice(
            [
                random.randbytes(random.choice([0, 1, 20, 2000])),
                b"\x91" * random.choice([1, 1000, 100_000]) + b"\x01",
                b"\x95\x01\xc4\x06sender\x01\xc0" + b"\xdd\xff\xff\xff\xff",
                b"\x95\x01\xc6\xff\xff\xff\xff",
                msgspec.msgpack.encode([1, b"sender", 1, None, [self._deep(6)] * 64]),
                msgspec.msgpack.encode(self._deep(8)),
            ]
        )

    def _deep(self, depth: int) -> object:
        random = self.random
        leaves: tuple[object, ...] = (0, -1, 2**63, 1.5, None, True, "dev", b"\x00", float("nan"))
        if depth == 0 or random.random() < 0.3:
            return random.choice(leaves)
        if random.random() < 0.8:
            return [self._deep(depth - 1) for _ in range(random.randrange(4))]
        keys: Mapping[str, object] = {"a": self._deep(depth - 1), "b": 1}
        return keys
