"""How many bytes one acknowledgement costs on the wire, against the same facts as JSON."""

import json
import secrets

from benchmarks.result import Result
from sync.author import Author
from sync.client_ids import client_id
from sync.documents import DocumentName, Side, ack_key, parse_document
from sync.messages import Diff, Message, in_frames
from sync.moves import Role
from sync.records import Ack, encode
from sync.replica import Holding
from sync.session import Session

DEVICE = "pump-station-0042"


def run() -> list[Result]:
    """Write one acknowledgement on a device with a history and look at the frame it makes."""
    document = parse_document(f"dev/{DEVICE}")
    boot = secrets.token_bytes(6)
    author = Author(None, client_id=client_id(Side.DEVICE, 37, 4711))
    stages = "DVIHK"
    for number in range(20):
        for stage in stages:
            ack = Ack(boot, 86_400_000 + number, 1_790_000_000_000 + number, 2)
            author.write({ack_key(f"d{number:08d}", stage): encode(ack)})
    session = Session(DEVICE, sends={document: Role.AUTHOR})
    follower = Session(DEVICE, sends={}, follows=[document])
    held: dict[DocumentName, Holding] = {}

    def exchange(messages: list[Message]) -> None:
        while messages:
            answers: list[Message] = []
            for message in messages:
                step = follower.receive(message, held.get, 0.0)
                for name, followed in step.store.items():
                    if followed.holding is not None:
                        held[name] = followed.holding
                answers += step.send
            messages = [
                reply
                for answer in answers
                for reply in session.receive(answer, lambda _: author.holding(), 0.0).send
            ]

    exchange(session.opened(lambda _: author.holding(), 0.0).send)
    ack = Ack(boot, 86_500_000, 1_790_000_100_000, 2)
    author.write({ack_key("dk3v7q2ax", "H"): encode(ack)})
    step = session.changed(document, lambda _: author.holding(), 1.0)
    (diff,) = step.send
    if not isinstance(diff, Diff):
        raise TypeError(f"expected a Diff, got {diff}")
    (frame,) = in_frames(step.send, sender=boot, sent_ms=86_500_040)
    with_anchor = in_frames(
        step.send, sender=boot, sent_ms=86_500_040, anchor=(1_790_000_099_000, 86_499_000)
    )[0]
    as_json = json.dumps(
        {
            "device": DEVICE,
            "deployment": "dk3v7q2ax",
            "stage": "healthy",
            "boot": boot.hex(),
            "boottime_ms": 86_500_000,
            "wall_ms": 1_790_000_100_000,
            "clock_synchronised": True,
            "sent_ms": 86_500_040,
        },
        separators=(",", ":"),
    )
    return [
        Result(
            name="wire.ack_payload_bytes",
            value=len(frame),
            unit="bytes",
            aim="< 100",
            peer=f"the same as compact JSON ({len(as_json)} bytes)",
            ratio=len(frame) / len(as_json),
            note=f"update {len(diff.update)} bytes; with a clock anchor (at most every 10 s) "
            f"{len(with_anchor)} bytes",
        )
    ]
