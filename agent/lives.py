"""Deaths of the agent while it fetches a release: which count, and when there were too many.

Pure: no files, no clock. A life of the agent counts as a death from the moment it takes the
fetching up, so that none is forgotten, and is spared when it turns out to harm nobody: it ended in
order, or it only waited for a hub out of reach. What has come since the death before takes all of
them back, so a device that is switched off every evening goes on for as long as its download does.
"""

from typing import Final, NamedTuple

PACKS_DEATHS_MAX: Final = 3
"""After so many a release comes whole: applying a pack takes memory that a device may not have."""


class Tally(NamedTuple):
    """What is kept of the lives that fetched one release."""

    deaths: int = 0
    """Lives that took it up since more came last, the present one included unless it is spared."""
    here_bytes: int = 0
    """The most that was ever here, verified, when a life took it up."""


def taken_up(tally: Tally, here_bytes: int) -> Tally:
    """Return the tally as one more life takes the fetching up, with `here_bytes` verified so far.

    Less than was here before is no progress, and neither is getting back to it: a download that is
    thrown away and begun anew in each life does not come further.
    """
    if here_bytes > tally.here_bytes:
        return Tally(1, here_bytes)
    return tally._replace(deaths=tally.deaths + 1)


def spared(tally: Tally) -> Tally:
    """Return the tally if the present life does not count."""
    return tally._replace(deaths=max(0, tally.deaths - 1))


def is_too_much(tally: Tally, deaths_max: int) -> bool:
    """Tell whether the life that has just taken it up comes after too many deaths."""
    return tally.deaths > deaths_max


def may_take_packs(tally: Tally) -> bool:
    """Tell whether this life may apply a pack: maybe that is what the ones before died of."""
    return tally.deaths <= PACKS_DEATHS_MAX
