"""From what is believed to what a source can prove: the client's workflow of TUF.

Owns the order in which files are asked for and stored. What is believed is decided in `sync.trust`.
Each file is stored as soon as it is believed, so a power cut loses at most the last one.

Source: The Update Framework specification 1.0.33, section 5.
"""

import contextlib
from collections.abc import Callable

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from agent.trust.shelf import Shelf
from agent.trust.sources import Source
from sync.metadata import BYTES_MAX, Refused
from sync.stages import Reason
from sync.trust import ROOTS_MAX, Chain, Freshness


def load_chain(shelf: Shelf, pinned: bytes) -> Chain:
    """Return what is believed: the pinned root, and what was stored under it.

    What is stored and cannot be read or no longer verifies is left out: the source has it.

    Raises:
        Refused: The pinned root is none.
    """
    chain = Chain(pinned)
    later = shelf.load(Root.type)
    if later is not None:
        with contextlib.suppress(Refused):
            known = Chain(later)
            if known.root.version > chain.root.version:
                chain = known
    for role in (Timestamp.type, Snapshot.type, Targets.type):
        stored = shelf.load(role)
        if stored is not None:
            with contextlib.suppress(Refused):
                chain.restore(role, stored)
    return chain


def refresh(chain: Chain, shelf: Shelf, source: Source) -> bool:
    """Bring `chain` and what is stored up to what `source` has.

    Returns:
        Whether the source had a newer timestamp than was known.

    Raises:
        Refused: Something does not verify. What came before it is believed and stored.
        Unreachable: The source does not answer, or broke off.
        OSError: It cannot be stored.
    """
    _follow_roots(chain, shelf, source)
    content = source.get("timestamp.json", BYTES_MAX[Timestamp.type])
    if content is None:
        raise Refused(Reason.UNSIGNED, "the source has no signed list of releases")
    is_new = chain.add_timestamp(content)
    if is_new:
        shelf.save(Timestamp.type, content)
    if not chain.has_snapshot:
        named = chain.wanted_snapshot
        name = f"{named.version}.snapshot.json"
        _take(Snapshot.type, name, named.length, chain.add_snapshot, shelf, source)
    if not chain.is_complete:
        named = chain.wanted_targets
        name = f"{named.version}.targets.json"
        _take(Targets.type, name, named.length, chain.add_targets, shelf, source)
    return is_new


def require_fresh(found: Freshness, budget_s: int, *, is_new: bool) -> None:
    """Refuse to act on what ran out too long ago.

    Args:
        found: How old it is.
        budget_s: How long after its term it still may be acted on.
        is_new: Whether the source had something newer than was known.

    Raises:
        Refused: With `FREEZE` if the source has nothing newer, else with `STALE`.
    """
    if found.overdue_s <= budget_s:
        return
    days = found.overdue_s / 86_400
    if is_new:
        raise Refused(
            Reason.STALE, f"{found.role} ran out {days:.1f} days ago, {budget_s / 86_400:g} allowed"
        )
    raise Refused(
        Reason.FREEZE, f"{found.role} ran out {days:.1f} days ago and the source has nothing newer"
    )


def _follow_roots(chain: Chain, shelf: Shelf, source: Source) -> None:
    for _ in range(ROOTS_MAX):
        content = source.get(f"{chain.root.version + 1}.root.json", BYTES_MAX[Root.type])
        if content is None:
            return
        chain.add_root(content)
        if chain.timestamp is None:
            # Before the root is stored: after a power cut in between it is asked for again.
            shelf.drop(Timestamp.type)
            shelf.drop(Snapshot.type)
        shelf.save(Root.type, content)


def _take(
    role: str,
    name: str,
    length_bytes: int | None,
    believe: Callable[[bytes], None],
    shelf: Shelf,
    source: Source,
) -> None:
    bound = BYTES_MAX[role] if length_bytes is None else min(length_bytes, BYTES_MAX[role])
    content = source.get(name, bound)
    if content is None:
        raise Refused(Reason.MIX_AND_MATCH, f"the source names {name} and does not have it")
    believe(content)
    shelf.save(role, content)
