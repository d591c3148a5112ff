"""Handing a payload to a module through pipes with names, as fast as it reads.

Owns `stream-next` and `streams/` of a module's tree. A module that wants streams opens
`stream-next`, reads one line `streams/NAME` (with a size, if it asked for sizes), reads that pipe
to its end, and begins again; a `stream-next` without a line means that this was all.

Opening a pipe waits for the other side, which a module need never be: so the server is a thread,
and whoever waited for the module lets it go by opening the other side itself.
"""

import contextlib
import os
import select
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from firmware_hooks.durable import remove

CHUNK_BYTES: Final = 64 * 1024
"""As much as a pipe holds."""
POLL_S: Final = 0.2
"""How soon a server that is stuck with a reader who does not read notices that it has to end."""

LET_GO_S: Final = 0.02
LET_GO_TRIES: Final = 250
"""Together 5 s; one is enough, except where the thread is just between two pipes."""


class Streams:
    """The payload of one release, as streams. A context: the pipes are there as long as it is."""

    def __init__(self, tree: Path, files: Mapping[str, Path], *, with_sizes: bool) -> None:
        """Serve `files`, by their names, in `tree`."""
        self._tree = tree
        self._next = tree / "stream-next"
        self._files = files
        self._with_sizes = with_sizes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mender streams", daemon=True)
        self._error: OSError | None = None
        self.broken = threading.Event()
        """Set when nothing more will come although there is more: the module would wait for it."""
        self.is_begun = False
        """The module has asked for a stream."""
        self.is_done = False
        """It was given all there is. Mender's client does not mind if it asks for no more."""

    def __enter__(self) -> Self:
        os.mkfifo(self._next, 0o600)
        (self._tree / "streams").mkdir(0o700)
        if self._files:
            self._make(next(iter(self._files)))
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        for _ in range(LET_GO_TRIES):
            if not self._thread.is_alive():
                break
            # A module may have removed a pipe; then the thread stays, and harms nobody.
            for pipe in (self._next, *(self._tree / "streams").glob("*")):
                with contextlib.suppress(OSError):
                    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
            self._thread.join(LET_GO_S)
        remove(self._next)
        remove(self._tree / "streams")

    def check(self) -> None:
        """Raise what reading the payload came to.

        Raises:
            OSError: A file could not be read.
        """
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._serve()
        except OSError as error:
            self._error = error
        if not self.is_done and not self._stop.is_set():
            self.broken.set()

    def _serve(self) -> None:
        """Hand over all of it, unless somebody lets go before."""
        for name, path in self._files.items():
            self._make(name)
            size = f" {path.stat().st_size}" if self._with_sizes else ""
            if not self._tell(f"streams/{name}{size}\n".encode()):
                return
            if not self._give(self._tree / "streams" / name, path):
                return
        self.is_done = True
        self._tell(b"")

    def _make(self, name: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._tree / "streams" / name, 0o600)

    def _tell(self, line: bytes) -> bool:
        with _opened(self._next) as pipe:
            if self._stop.is_set():
                return False
            self.is_begun = True
            return self._write(pipe, line)

    def _give(self, pipe_path: Path, path: Path) -> bool:
        with path.open("rb") as content, _opened(pipe_path) as pipe:
            if self._stop.is_set():
                return False
            while chunk := content.read(CHUNK_BYTES):
                if not self._write(pipe, chunk):
                    return False
        pipe_path.unlink()
        return True

    def _write(self, pipe: int, chunk: bytes) -> bool:
        """Write all of it; False if nobody reads, or the module has ended."""
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(pipe, rest) :]
            except BlockingIOError:
                if self._stop.is_set():
                    return False
                select.select([], [pipe], [], POLL_S)
            except BrokenPipeError:
                return False
        return True


@contextlib.contextmanager
def _opened(pipe: Path) -> Iterator[int]:
    descriptor = os.open(pipe, os.O_WRONLY)  # waits for a reader
    try:
        os.set_blocking(descriptor, False)
        yield descriptor
    finally:
        os.close(descriptor)
