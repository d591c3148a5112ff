"""Run every benchmark: `python -m benchmarks [--long] [NAME ...]`."""

import argparse
import sys
import time
from collections.abc import Callable

from benchmarks import (
    delta,
    demo,
    device,
    device_year,
    hub_ingest,
    kill,
    measuring,
    truth,
    wire,
)
from benchmarks.result import RESULTS, Result, save, show

BENCHMARKS: dict[str, Callable[[bool], list[Result]]] = {
    "wire": lambda _: wire.run(),
    "device_year": lambda _: device_year.run(),
    "hub_ingest": lambda short: hub_ingest.run(short=short),
    "kill": lambda short: kill.run(short=short),
    "device": lambda short: device.run(short=short),
    "measuring": lambda short: measuring.run(short=short),
    "delta": lambda short: delta.run(short=short),
    "truth": lambda short: truth.run(short=short),
    "demo": lambda _: demo.run(),
}


def main() -> int:
    """Run what was asked for, all by default; results of all are saved."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--long", action="store_true", help="more samples, tens of minutes")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    results: list[Result] = []
    for name in options.names or BENCHMARKS:
        since = time.monotonic()
        print(f"{name} ...", end=" ", flush=True)
        results += BENCHMARKS[name](not options.long)
        print(f"{time.monotonic() - since:.0f} s")
    show(results)
    if not options.names:
        save(results)
        print(f"\nsaved in {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
