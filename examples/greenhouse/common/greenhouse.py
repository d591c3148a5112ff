"""The controller: measures, decides, moves window and valve, and tells its status to who asks.

Runs until it gets SIGTERM. Keeps everything in the folder that `FIELDFARE_STATE_DIR` names, never
in the release's own folder, which is replaced at the next release.
"""

import json
import signal
import socket
import sys
import time
from pathlib import Path

import control
from place import SOCKET, VERSION, listen, sensor_dir, state_dir

TICK_S = 0.25
"""Time between two measurements."""

ANSWER_MAX_S = 1.0
"""Longest time that one caller may hold the controller up."""


def measure(folder: Path) -> dict[str, float | None]:
    """Read every sensor that this version needs; None for one that gives no number.

    A sensor is a file with a number in it, as the kernel's hwmon and iio drivers offer them.
    """
    readings: dict[str, float | None] = {}
    for name in control.SENSORS:
        try:
            readings[name] = float((folder / name).read_text())
        except (OSError, ValueError):
            readings[name] = None
    return readings


def move(folder: Path, outputs: dict[str, bool]) -> None:
    """Bring window and valve where they should be; here that is a file for each."""
    for name, is_open in outputs.items():
        (folder / name).write_text("open\n" if is_open else "closed\n")


def serve(listener: socket.socket) -> None:
    """Measure and answer for ever."""
    outputs: dict[str, bool] = {}
    readings: dict[str, float | None] = {}
    measured_count = 0
    due_mono = time.monotonic()
    while True:
        now_mono = time.monotonic()
        if now_mono >= due_mono:
            readings = measure(sensor_dir())
            outputs = control.decide(readings, outputs)
            move(state_dir(), outputs)
            measured_count += 1
            due_mono = now_mono + TICK_S
        listener.settimeout(max(0.01, due_mono - time.monotonic()))
        try:
            caller, _ = listener.accept()
        except TimeoutError:
            continue
        status = {
            "version": VERSION,
            "measured_count": measured_count,
            "readings": readings,
            "outputs": outputs,
        }
        with caller:
            caller.settimeout(ANSWER_MAX_S)
            try:
                caller.sendall(json.dumps(status).encode())
            except OSError:
                continue  # the caller has gone; the plants have not


def main() -> None:
    """Listen in the state directory and serve until told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listen(state_dir() / SOCKET) as listener:
        print(f"greenhouse {VERSION} runs", flush=True)
        serve(listener)


if __name__ == "__main__":
    main()
