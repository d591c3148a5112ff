"""What applications say of their measurements, line by line: our own words, and statsd's.

Owns both grammars. Never keeps anything: it tells `agent.measures`.

    count NAME [NUMBER]        observe NAME VALUE        gauge NAME VALUE
    event CODE                 outcome INTENT INTENDED [REACHED]
    case INTENT automatic|human                          dropped NUMBER

each followed by any of `release=component@version`, `variant=flag=variant`, and at last
`detail=`, which takes the rest of the line. And as statsd has it, with the tags of DogStatsD:
`NAME:VALUE|c[|@RATE][|#release:R,variant:F=V]`, also `|g`, `|ms`, `|h` and `|d`.
"""

import re
from typing import Final

from agent.measures import BadMeasure, Measures
from sync.series import NONE, Series
from sync.stamps import Stamp

LINE_BYTES_MAX: Final = 1024

_STATSD: Final = re.compile(r"([^:|#@\s]+):([^:|#@\s]+)\|(c|g|ms|h|d|s)((?:\|[@#c][^|\s]*)*)\Z")
_WORDS_MAX: Final = 8


def take_lines(measures: Measures, text: str, now: Stamp) -> list[str]:
    """Measure every line of `text`; return what was wrong with those that could not be.

    What is wrong is counted as well, by reason.
    """
    faults: list[str] = []
    for line in text.splitlines():
        if line.strip():
            try:
                take_line(measures, line.strip(), now)
            except BadMeasure as error:
                measures.drop(error.why)
                faults.append(str(error))
    return faults


def take_line(measures: Measures, line: str, now: Stamp) -> None:
    """Measure one line.

    Raises:
        BadMeasure: It says nothing that can be measured; nothing was.
    """
    if len(line) > LINE_BYTES_MAX:
        raise BadMeasure("bad_line", f"a line has at most {LINE_BYTES_MAX} letters")
    if (found := _STATSD.match(line)) is not None:
        _statsd(measures, found)
        return
    told, _, detail = f" {line}".partition(" detail=")
    options = {"release": NONE, "variant": NONE}
    words: list[str] = []
    for word in told.split()[:_WORDS_MAX]:
        name, is_given, value = word.partition("=")
        if is_given and name in options:
            options[name] = value
        else:
            words.append(word)
    _own(measures, words, options, detail, now)


def _own(
    measures: Measures, words: list[str], options: dict[str, str], detail: str, now: Stamp
) -> None:
    release = "" if options["release"] == NONE else options["release"]
    match words:
        case ["count", name]:
            measures.count(Series(name, **options))
        case ["count", name, number]:
            measures.count(Series(name, **options), _number(number))
        case ["observe", name, value]:
            measures.observe(Series(name, **options), _number(value))
        case ["gauge", name, value]:
            measures.gauge(Series(name, **options), _number(value))
        case ["event", code]:
            measures.event(code, now, detail=detail, release=release)
        case ["outcome", intent, intended]:
            measures.case(intent, now, intended=intended, release=release, detail=detail)
        case ["outcome", intent, intended, reached]:
            measures.case(
                intent, now, intended=intended, reached=reached, release=release, detail=detail
            )
        case ["case", intent, by]:
            measures.case(intent, now, by=by, release=release, detail=detail)
        case ["dropped", number]:
            measures.drop("by_applications", min(int(_number(number)), 2**31))
        case _:
            raise BadMeasure("bad_line", f"nothing can be measured from {' '.join(words)[:80]!r}")


def _statsd(measures: Measures, found: re.Match[str]) -> None:
    name, text, kind, rest = found.groups()
    rate, tags = _extras(rest)
    series = Series(name.replace("-", "_").lower(), **tags)
    if kind == "s":
        raise BadMeasure("bad_line", f"{name}: sets are not measured")
    if not 0.0 < rate <= 1.0:
        raise BadMeasure("bad_value", f"{name}: a rate is above 0 and at most 1")
    value = _number(text)
    if kind == "c":
        measures.count(series, value / rate)
    elif kind != "g":
        measures.observe(series, value)
    elif text[0] in "+-":
        raise BadMeasure("bad_line", f"{name}: a gauge is set, not changed by {text}")
    else:
        measures.gauge(series, value)


def _extras(rest: str) -> tuple[float, dict[str, str]]:
    """Return the sampling rate and our tags of what follows the kind."""
    rate, tags = 1.0, {"release": NONE, "variant": NONE}
    for part in rest.split("|")[1:]:
        if part.startswith("@"):
            rate = _number(part[1:])
        elif part.startswith("#"):
            for tag in part[1:].split(","):
                key, _, value = tag.partition(":")
                if key in tags:
                    tags[key] = value
    return rate, tags


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadMeasure("bad_value", f"{text[:40]!r} is no number") from None
