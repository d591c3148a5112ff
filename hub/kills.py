"""Kill orders: that a flag or a deployment is off, before anything else is asked.

Owns whom an order concerns and its way into the groups' documents. Runs on the writer's thread in
one transaction; never publishes (`hub.kill_topic`, `hub.publisher`).

Rule: an order goes to every group that could hold what it is about. Devices that are not on its
list obey it too; they are not counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from hub import deployments, flags
from hub.desired import DesiredDocuments
from hub.entries import HLC
from hub.errors import NotFound, Refusal
from hub.labels import groups_of
from hub.store import deployments as deployment_store
from hub.store import documents, kills, queries
from hub.store import flags as flag_store
from hub.store.database import Connection, load_number, save_number
from hub.store.deployments import Deployed
from hub.store.kills import Order
from sync.documents import ID_PATTERN, KILL, DocumentName, Kind
from sync.flags import BadFlag, check_flag_key
from sync.hlc import tick
from sync.records import Kill, encode

FLAG: Final = "flag"
DEPLOYMENT: Final = "deployment"

OWN: Final = "agent."
"""How the agent's own flags begin; nobody needs to define them."""

ROOM_BYTES: Final = 8192
"""So much longer than anything else may an order make a document: a full one must not keep it
out."""


@dataclass(frozen=True, slots=True)
class What:
    """What an order is about."""

    kind: str
    name: str

    def __str__(self) -> str:
        """Return it as it is stored and sent."""
        return f"{self.kind}:{self.name}"


def parse_what(text: str) -> What:
    """Return what `text` names.

    Raises:
        Refusal: It names neither a flag nor a deployment.
    """
    kind, colon, name = text.partition(":")
    if not colon or kind not in (FLAG, DEPLOYMENT):
        raise Refusal(f"{text[:80]!r} cannot be killed: name flag:KEY or deployment:ID")
    if kind == FLAG:
        try:
            check_flag_key(name)
        except BadFlag as error:
            raise Refusal(str(error)) from None
    elif not ID_PATTERN.match(name):
        raise Refusal(f"{name[:64]!r} cannot name a deployment")
    return What(kind, name)


@dataclass(frozen=True, slots=True)
class Kills:
    """Orders of one operator at one moment."""

    connection: Connection
    desired: DesiredDocuments
    requested_ms: int
    now_ms: int
    who: str
    why: str = ""

    def kill(self, what: What, group: str | None = None) -> tuple[Order, list[DocumentName], bool]:
        """Order that something is off; return the order, the changed documents, whether it is new.

        A deployment is also taken back, so that nobody begins with it.

        Raises:
            NotFound: There is no such thing. A flag that nobody defined and nobody has read may be
                killed in a group that is named.
        """
        if what.kind == DEPLOYMENT:
            deployed = self._deployed(what)
            groups, concerned = _groups_of_deployment(self.connection, deployed)
            lease_s = None
        else:
            deployed = None
            groups, concerned = self._groups_of_flag(what.name, group)
            lease_s = self._lease_s(what.name, groups)
        standing = kills.latest(self.connection, str(what))
        if standing is not None and standing.is_killed and set(groups) <= set(standing.groups):
            return standing, [], False
        order = self._order(what, groups, lease_s, is_killed=True)
        changed = self._write(order, concerned)
        if deployed is not None:
            taken_back = deployments.cancel(
                self.connection, self.desired, deployed.id, self.now_ms
            )[1]
            changed += [each for each in taken_back if each not in changed]
        return order, changed, True

    def undo(self, what: What) -> tuple[Order, list[DocumentName], bool]:
        """Take an order back; return as `kill`.

        Raises:
            NotFound: There was none.
        """
        standing = kills.latest(self.connection, str(what))
        if standing is None:
            raise NotFound(f"{what} was never killed")
        if not standing.is_killed:
            return standing, [], False
        order = self._order(what, standing.groups, None, is_killed=False)
        concerned = [target.n for target in kills.targets(self.connection, standing)]
        return order, self._write(order, concerned), True

    def _order(
        self, what: What, groups: Iterable[str], lease_s: int | None, *, is_killed: bool
    ) -> Order:
        clock = tick(load_number(self.connection, HLC), self.now_ms)
        save_number(self.connection, HLC, clock)
        return Order(
            clock,
            str(what),
            is_killed,
            tuple(groups),
            lease_s,
            self.requested_ms,
            None,
            self.who,
            self.why,
        )

    def _write(self, order: Order, concerned: Iterable[int]) -> list[DocumentName]:
        record = encode(Kill(order.clock, order.is_killed, order.who[:100], order.why))
        changed = []
        for group in order.groups:
            document = DocumentName(Kind.GROUP, group)
            entry = {KILL + order.what: record}
            self.desired.write(self.connection, document, entry, self.now_ms, room_bytes=ROOM_BYTES)
            changed.append(document)
        kills.save(self.connection, order, concerned)
        return changed

    def _deployed(self, what: What) -> Deployed:
        found = deployment_store.load(self.connection, what.name)
        if found is None:
            raise NotFound(f"there is no deployment {what.name!r}")
        return found

    def _groups_of_flag(self, flag: str, named: str | None) -> tuple[list[str], list[int]]:
        members = _members(self.connection)
        defined = [
            group
            for _, group, value in flag_store.defined(self.connection, flag)
            if flags.read(flag, value) is not None
        ]
        if named is not None:
            groups = [named]
        elif defined:
            groups = defined
        elif flag.startswith(OWN) or flag in flag_store.read_flags(self.connection):
            held = {each.about for each in documents.names(self.connection, Kind.GROUP)}
            groups = sorted(members.keys() | held)
        else:
            raise NotFound(
                f"no flag {flag!r} is defined, and no device has read one: is it spelled so? "
                "Name a group to kill it there all the same"
            )
        concerned = {n for group in groups for n in members.get(group, ())}
        return groups, sorted(concerned)

    def _lease_s(self, flag: str, groups: Iterable[str]) -> int | None:
        leases = []
        for group in groups:
            held = flags.standing(self.connection, flag, group)
            leases.append(0 if held is None else held.definition.lease_s)
        return max(leases) if leases and all(leases) else None


def _members(connection: Connection) -> dict[str, list[int]]:
    """Return the numbers of the devices of each group."""
    found: dict[str, list[int]] = {}
    for _, n, facts in queries.facts_of_all(connection):
        for group in groups_of(facts):
            found.setdefault(group, []).append(n)
    return found


def _groups_of_deployment(
    connection: Connection, deployed: Deployed
) -> tuple[list[str], list[int]]:
    """Return the groups through which the devices of a deployment are reached, and their numbers.

    Devices that were named are reached through as few groups as their own first ones allow.
    """
    listed = {each.n for each in deployment_store.targeted(connection, deployed.id)}
    if deployed.group:
        return [deployed.group], sorted(listed)
    groups: Mapping[int, tuple[str, ...]] = {
        n: groups_of(facts) for _, n, facts in queries.facts_of_all(connection) if n in listed
    }
    chosen: list[str] = []
    for n in sorted(groups):
        if groups[n] and not set(groups[n]) & set(chosen):
            chosen.append(groups[n][0])
    return chosen, sorted(listed)
