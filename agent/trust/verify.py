"""`python -m agent.trust.verify`: whether a release may be installed, asked and answered in JSON.

Owns the judgement. Runs in a process of its own because the libraries that check signatures cost
9 MB of memory, which an agent of 42 MB would keep for ever (x86-64, CPython 3.11).
"""

import sys
from pathlib import Path

import msgspec

from agent.identity import Identity, NotEnrolled
from agent.trust.question import (
    GRANTED,
    QUESTION_BYTES_MAX,
    REFUSED,
    UNREACHABLE,
    Answer,
    Question,
)
from agent.trust.refresh import load_chain, refresh, require_fresh
from agent.trust.shelf import Shelf
from agent.trust.sources import HubSource, Source, Unreachable
from sync.metadata import BYTES_MAX, Refused
from sync.stages import Reason
from sync.trust import Chain, require_release


def answer(question: Question, source: Source) -> Answer:
    """Return the answer, having asked `source` and stored what is newly believed.

    Raises:
        OSError: The disk is full or fails.
    """
    try:
        pinned = _pinned(Path(question.root))
        shelf = Shelf(Path(question.state_dir), pinned)
        with shelf.alone():
            chain = load_chain(shelf, pinned)
            return _judge(question, chain, shelf, source)
    except Refused as refused:
        return Answer(verdict=REFUSED, reason=refused.reason, detail=refused.detail)


def _judge(question: Question, chain: Chain, shelf: Shelf, source: Source) -> Answer:
    verdict, reason, detail = GRANTED, Reason.OK, ""
    overdue_s = 0
    try:
        is_new, problem = False, ""
        try:
            is_new = refresh(chain, shelf, source)
        except Unreachable as silent:
            # What is known already may be enough: a stick may have brought it.
            problem = str(silent) or "the hub does not answer"
        floor_s = question.floor_s if question.floor_keys in (0, chain.online_id) else 0
        freshness = chain.judge(max(floor_s, chain.signed_s()))
        overdue_s = freshness.overdue_s
        try:
            name = f"{question.component}@{question.version}"
            found = chain.find(question.component, question.version)
            require_release(found, question.digest, question.length_bytes, name=name)
            require_fresh(freshness, question.budget_s, is_new=is_new)
        except Refused:
            if not problem:
                raise
            verdict, detail = UNREACHABLE, problem
    except Refused as refused:
        verdict, reason, detail = REFUSED, refused.reason, refused.detail
    return Answer(
        verdict=verdict,
        reason=reason.value,
        detail=detail[:200],
        signed_s=chain.signed_s(),
        online_id=chain.online_id,
        overdue_s=overdue_s,
        root_version=chain.root.version,
        targets_version=chain.targets.version if chain.targets is not None else 0,
    )


def _pinned(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(BYTES_MAX["root"] + 1)
    except OSError as error:
        raise Refused(
            Reason.UNSIGNED, f"the pinned root {path} cannot be read: {error.strerror}"
        ) from None


def main() -> int:
    """Answer the question on standard input."""
    question = msgspec.json.decode(sys.stdin.buffer.read(QUESTION_BYTES_MAX), type=Question)
    try:
        tls = Identity(Path(question.identity)).context if question.identity else None
    except NotEnrolled as error:
        said = Answer(verdict=UNREACHABLE, detail=str(error)[:200])
    else:
        source = HubSource(question.hub_url, stall_s=question.stall_s, tls=tls)
        said = answer(question, source)
    sys.stdout.buffer.write(msgspec.json.encode(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
