"""The `rauc` installer: a bundle handed to RAUC, which writes the other slot group.

Owns the conversation with RAUC's D-Bus service (`de.pengutronix.rauc`), whose interface is
described in RAUC's reference manual. RAUC verifies the bundle's signature, chooses and writes the
slots and speaks to the bootloader; the order of things is in `firmware_hooks.two_slots`.

RAUC should be set up with `activate-installed=false`: otherwise it makes the slot that it wrote the
one that boots, and for the moment until that is taken back a restart would lead into it.

The library that speaks D-Bus (`dbus-fast`, the extra `rauc`) is imported when it is used.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from firmware_hooks.boot.contract import BootError, known, other
from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order, RetryLater
from firmware_hooks.durable import verify
from firmware_hooks.options import number, refuse_unknown, text
from firmware_hooks.two_slots import Held, TwoSlots
from sync.stages import Reason

SERVICE: Final = "de.pengutronix.rauc"
INSTALLER: Final = "de.pengutronix.rauc.Installer"
DBUS: Final = "org.freedesktop.DBus"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
CALL_S: Final = 60.0
"""Longest that RAUC may take for anything but an install; its bootloader hooks run meanwhile."""
BUSY_S: Final = 30.0
"""How long another install is waited for before the agent is asked to come back."""
POLL_S: Final = 0.2
SYSTEM_BUS: Final = "unix:path=/run/dbus/system_bus_socket"

OPTIONS: Final = frozenset({"bus", "install_s", "proc"})

Status = dict[str, Any]
T = TypeVar("T")


class RaucInstaller(TwoSlots):
    """Installs bundles of one component through RAUC."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Work for `component` with the RAUC service on the bus that `options` name.

        Raises:
            InstallerError: An option is wrong.
        """
        refuse_unknown(options, OPTIONS)
        self._rauc = Rauc(
            text(options, "bus", os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS))
        )
        self._install_s = number(options, "install_s", 3600.0)
        super().__init__(component, install_dir, self._rauc, Path(text(options, "proc", "/proc")))

    def _fill(self, slot: str, order: Order) -> Held:
        artifact = order.manifest.artifacts[0]
        bundle = order.artifacts[artifact.name]
        verify(bundle, artifact)
        primary = self._rauc.primary()
        self._rauc.install(bundle.resolve(), self._install_s, self.on_progress)
        self._rauc.try_once(primary)  # RAUC may have activated what it installed
        status = self._rauc.status(slot)
        if status.get("status") != "ok":
            raise InstallerError(
                Reason.INSTALLER_FAILED,
                f"RAUC installed the bundle, but not into slot {slot}: does it hold an image for"
                " the slots that boot?",
            )
        return Held(
            release=order.digest.hex(),
            version=order.manifest.version,
            length_bytes=int(status.get("size", 0)),
            sha256=str(status.get("sha256", "")),
            sample=_sample(status),
        )

    def _holds(self, slot: str, held: Held) -> bool:
        return self._is_intact(slot, held)

    def _is_intact(self, slot: str, held: Held) -> bool:
        # RAUC counts its installs, so one by hand shows even if it was of the same image.
        return _sample(self._rauc.status(slot)) == held.sample


class Rauc:
    """RAUC's service, which is also the boot backend: it alone speaks to the bootloader."""

    reboot: tuple[str, ...] = ()

    def __init__(self, bus: str) -> None:
        """Speak to the service on the bus with this address; nothing is connected yet."""
        self._bus = bus
        self._names: tuple[str, str] | None = None

    @property
    def slots(self) -> tuple[str, str]:
        """Names of the two slots that boot, as the bootloader knows them."""
        if self._names is None:
            names = sorted(self._statuses())
            if len(names) != 2:  # noqa: PLR2004 - that is what "two slots" means
                raise BootError(f"RAUC has {len(names)} slots that boot ({names}), not two")
            self._names = (names[0], names[1])
        return self._names

    def current(self) -> str:
        """Return the slot that RAUC says was booted."""
        return known(
            self.slots, str(self._call_one("Get", "ss", INSTALLER, "BootSlot", of=PROPERTIES))
        )

    def primary(self) -> str:
        """Return the slot that RAUC says boots next, or the other one while it is marked bad."""
        named = self._call_one("GetPrimary")
        for slot, status in self._statuses().items():
            if status["name"] == named:
                is_bad = status.get("boot-status") == "bad"
                return other(self.slots, slot) if is_bad else slot
        raise BootError(f"RAUC says that {named!r} boots, which is no slot that boots")

    def try_once(self, slot: str) -> None:
        """Make it the active slot; how often it is tried is up to the bootloader."""
        self._mark("active", slot)

    def commit(self, slot: str) -> None:
        """Make it the active slot, and mark it good."""
        self._mark("active", slot)
        self._mark("good", slot)

    def status(self, slot: str) -> Status:
        """Return what RAUC knows of a slot."""
        return self._statuses()[known(self.slots, slot)]

    def install(self, bundle: Path, limit_s: float, tell: Callable[[str], None]) -> None:
        """Have a bundle installed, and wait until that came to an end.

        Raises:
            InstallerError: It ended badly, in RAUC's words, or not in time.
        """

        async def run(call: "_Call") -> None:
            await _until_idle(call)
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            def hear(member: str, body: list[Any]) -> None:
                if member == "Completed" and not ended.done():
                    ended.set_result(body[0])
                elif member == "PropertiesChanged" and "Progress" in body[1]:
                    percent, what, _ = body[1]["Progress"].value
                    tell(f"{percent} % {what}")
                elif member == "NameOwnerChanged" and not body[2] and not ended.done():
                    ended.set_exception(BootError("RAUC's service ended in the middle of it"))

            await call.listen(hear)
            await call("InstallBundle", "sa{sv}", os.fspath(bundle), {})
            if await ended != 0:
                why = (await call("Get", "ss", INSTALLER, "LastError", of=PROPERTIES))[0].value
                reason = Reason.NO_SPACE if "No space left" in why else Reason.INSTALLER_FAILED
                raise InstallerError(reason, f"RAUC: {why}"[:200])

        self._talk(run, limit_s)

    def _statuses(self) -> dict[str, Status]:
        """Return what RAUC knows of each slot that boots, by its name in the bootloader."""
        found = {}
        for name, values in self._call_one("GetSlotStatus"):
            status = {key: value.value for key, value in values.items()}
            if "bootname" in status:
                found[str(status["bootname"])] = {**status, "name": name}
        return found

    def _mark(self, state: str, slot: str) -> None:
        self._call_one("Mark", "ss", state, self.status(slot)["name"])

    def _call_one(self, member: str, signature: str = "", *body: Any, of: str = INSTALLER) -> Any:
        async def run(call: "_Call") -> Any:
            if of == INSTALLER:
                await _until_idle(call)
            answer = await call(member, signature, *body, of=of)
            return getattr(answer[0], "value", answer[0]) if answer else None

        return self._talk(run, CALL_S)

    def _talk(self, run: Callable[["_Call"], Awaitable[T]], limit_s: float) -> T:
        """Connect, run a conversation and disconnect."""
        try:
            from dbus_fast.aio import MessageBus  # noqa: PLC0415 - an extra that few devices have
        except ImportError:
            raise BootError("the rauc installer needs dbus-fast: install fieldfare[rauc]") from None

        async def talk() -> T:
            bus = await MessageBus(bus_address=self._bus).connect()
            try:
                return await run(_Call(bus))
            finally:
                bus.disconnect()

        async def in_time() -> T:
            async with asyncio.timeout(limit_s):
                return await talk()

        try:
            return asyncio.run(in_time())
        except TimeoutError:
            raise BootError(f"RAUC was not done within {limit_s:g} s") from None
        except OSError as error:
            raise BootError(f"the bus {self._bus} cannot be reached: {error}") from None


class _Call:
    """One connection to the bus, on which calls are made."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus

    async def __call__(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        of: str = INSTALLER,
        to: tuple[str, str] = (SERVICE, "/"),
    ) -> list[Any]:
        from dbus_fast import Message, MessageType  # noqa: PLC0415 - as above

        answer = await self._bus.call(
            Message(
                destination=to[0],
                path=to[1],
                interface=of,
                member=member,
                signature=signature,
                body=list(body),
            )
        )
        if answer.message_type is MessageType.ERROR:
            why = answer.body[0] if answer.body else answer.error_name
            raise BootError(f"RAUC's {member}: {why}")
        return list(answer.body)

    async def listen(self, hear: Callable[[str, list[Any]], None]) -> None:
        """Have `hear` called with each signal of the service, and when it comes or goes."""
        from dbus_fast import MessageType  # noqa: PLC0415 - as above

        self._bus.add_message_handler(
            lambda message: (
                hear(message.member, message.body)
                if message.message_type is MessageType.SIGNAL
                else None
            )
        )
        of_service = f"type='signal',sender='{SERVICE}'"
        of_its_end = f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='{SERVICE}'"
        for rule in (of_service, of_its_end):
            await self("AddMatch", "s", rule, of=DBUS, to=(DBUS, "/org/freedesktop/DBus"))


async def _until_idle(call: _Call) -> None:
    """Wait for an install that is under way, such as that of an agent that has died.

    RAUC answers no call meanwhile. To ask for another install is not only refused: RAUC 1.8 then
    says that it is idle.

    Raises:
        RetryLater: It takes long.
    """
    end_s = time.monotonic() + BUSY_S
    while True:
        (operation,) = await call("Get", "ss", INSTALLER, "Operation", of=PROPERTIES)
        if operation.value == "idle":
            return
        if time.monotonic() > end_s:
            raise RetryLater("RAUC is installing something else", BUSY_S)
        await asyncio.sleep(POLL_S)


def _sample(status: Status) -> str:
    return f"{status.get('installed.count', 0)} {status.get('installed.timestamp', '')}"
