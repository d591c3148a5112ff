"""Taking what comes over a line into a file, looked at before it is written.

Owns where each byte goes and when it is too much. Never opens a connection or a file.
"""

import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, Final

from agent.blocks import Watch, WrongBlock
from agent.line import FetchFailed, Line, LinkBroke
from agent.link import Budget, Flow, Pace
from sync.stages import Reason

if TYPE_CHECKING:
    from http.client import HTTPResponse

CHUNK_BYTES: Final = 64 * 1024


NOT_NOW: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Answers that mean the hub is out of reach, whoever gives them."""


class Taking:
    """Takes what comes into a file."""

    def __init__(
        self,
        file: BinaryIO,
        length_bytes: int,
        budget: Budget,
        pace: Pace,
        flow: Flow,
        line: Line,
    ) -> None:
        """Take into `file`, open for appending, what makes it `length_bytes` long."""
        self._file = file
        self._length_bytes = length_bytes
        self._budget = budget
        self._pace = pace
        self._flow = flow
        self._line = line

    def copy(
        self, answer: "HTTPResponse", start: int, have_bytes: int, watch: Watch | None
    ) -> None:
        """Put what comes behind what is here, never more than makes the whole file.

        Args:
            answer: What comes.
            start: At which byte of the file it begins.
            have_bytes: How much of the file is here.
            watch: Looks at the bytes behind that, if there is a list of blocks.

        Raises:
            WrongBlock: What came is wrong; what is here ends before that.
            FetchFailed: Too much came, or it came too slowly.
            OSError: The link or the disk failed.
        """
        file = self._file
        skip_bytes = 0
        if start < have_bytes:
            # The whole file comes again. What was checked stays; the rest makes room.
            skip_bytes = have_bytes if watch is not None else 0
            if watch is None:
                file.truncate(0)
        position = file.seek(0, os.SEEK_END)
        while chunk := self._read(answer):
            self._budget.came(len(chunk))
            check_budget(self._budget, self._length_bytes)
            self._pace.took(len(chunk), lambda: not self._line.is_cut)
            passed = min(skip_bytes, len(chunk))
            skip_bytes -= passed
            fresh = chunk[passed:]
            position += len(fresh)
            if position > self._length_bytes:
                if watch is None:  # else what is here was compared block by block
                    file.truncate(0)
                raise FetchFailed(Reason.TOO_LARGE, "the hub sends more than announced", final=True)
            if watch is not None:
                try:
                    watch.see(fresh)
                except WrongBlock as wrong:
                    file.flush()
                    file.truncate(wrong.start)
                    raise
            file.write(fresh)

    def _read(self, answer: "HTTPResponse") -> bytes:
        asked_mono = time.monotonic()
        chunk = _read(answer)
        slow = self._flow.came(len(chunk), time.monotonic() - asked_mono)
        if slow and chunk:
            raise FetchFailed(Reason.SLOW, slow, final=False)
        return chunk


def start_of(answer: "HTTPResponse", have_bytes: int) -> int:
    """Return at which byte of the file an answer begins.

    Raises:
        FetchFailed: It gives nothing of the file, or another part than was asked for.
    """
    if answer.status == HTTPStatus.OK:
        return 0
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        if (answer.getheader("Content-Range") or "").startswith(f"bytes {have_bytes}-"):
            return have_bytes
        raise FetchFailed(
            Reason.DOWNLOAD_FAILED, "the hub sent another range than was asked for", final=False
        )
    not_there = answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
    reason = Reason.NOT_FOUND if not_there else Reason.DOWNLOAD_FAILED
    if answer.status in NOT_NOW:
        reason = Reason.UNREACHABLE
    raise FetchFailed(reason, f"the hub answered {answer.status}", final=not_there)


def check_budget(budget: Budget, length_bytes: int) -> None:
    """Give up if nothing is left of the budget.

    Raises:
        FetchFailed: Nothing is.
    """
    if budget.is_spent:
        raise FetchFailed(
            Reason.DOWNLOAD_FAILED,
            f"given up: {budget.spent_bytes} bytes came for a file of {length_bytes}, "
            f"and at most {budget.allowed_bytes} may",
            final=True,
        )


def _read(answer: "HTTPResponse") -> bytes:
    try:
        return answer.read1(CHUNK_BYTES)
    except OSError as error:
        raise LinkBroke(str(error)) from None
