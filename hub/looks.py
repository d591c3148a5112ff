"""Judgements that are made for one look: made once, when that was planned, and kept.

Owns when a look is due and what is shown before and after it. A test that is right for one look
raises false alarms when it is made every hour, so what the first look finds is stored and shown
from then on. When it is made follows from the plan and from how many devices have measured, never
from what they measured.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from hub.outcomes import words
from hub.outcomes.verdicts import Judgement, Ruling
from hub.store import looks as store
from hub.store.database import Connection

_DECODER: Final = msgspec.json.Decoder(Judgement)


@dataclass(slots=True, kw_only=True)
class Looks:
    """The planned looks at one deployment, or at a flag as it was dealt out."""

    about: str
    """What they are kept under."""
    since_ms: int
    """When it was accepted or dealt out, hub UTC."""
    after_ms: int
    """So much later it is looked at."""
    now_ms: int
    devices_min: int
    """With fewer devices than this it waits for more."""
    kept: dict[str, tuple[int, str]]
    """Looks that were made: (hub UTC, judgement as JSON) by name."""
    made: dict[str, str] = field(default_factory=dict)
    """Looks that were made now and are to be kept: `keep`."""

    @property
    def due_ms(self) -> int:
        """When it is time to look, hub UTC."""
        return self.since_ms + self.after_ms

    def take(self, judged: Judgement) -> Judgement:
        """Return what is shown of a judgement: what the look found, or that it is yet to come.

        One that devices are too few for is looked at again until it could have told.
        """
        if judged.name in self.kept:
            at_ms, text = self.kept[judged.name]
            return _once(_DECODER.decode(text), at_ms)
        if self.now_ms < self.due_ms:
            return Judgement(
                name=judged.name,
                verdict=Ruling.TOO_LITTLE_EVIDENCE,
                sentence=f"It is looked at once, {words.moment(self.due_ms)}.",
                evidence=judged.evidence[:1],
                p_min=judged.p_min,
                alpha=judged.alpha,
            )
        if not self._could_tell(judged):
            return judged
        self.made[judged.name] = msgspec.json.encode(judged).decode()
        return _once(judged, self.now_ms)

    def _could_tell(self, judged: Judgement) -> bool:
        if judged.looked_at_count is not None:
            return judged.looked_at_count >= self.devices_min
        if judged.p_min is None or judged.alpha is None:
            return False  # one of the sides has no device yet
        return judged.p_min <= judged.alpha

    def keep(self, connection: Connection) -> None:
        """Store the looks that were made now."""
        store.save(connection, self.about, self.now_ms, self.made)


def _once(judged: Judgement, at_ms: int) -> Judgement:
    return replace(judged, evidence=(*judged.evidence, f"looked at once, {words.moment(at_ms)}"))
