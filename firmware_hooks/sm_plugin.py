"""The `sm-plugin` installer: software plugins of thin-edge.io install lists of modules, unmodified.

Owns which modules a release names, and which versions they had before. How a module is installed is
the plugin's business, and so is where it comes from if the release does not carry it.

A plugin is called with `list`, `prepare`, `install`, `remove`, `update-list` or `finalize`; exit
code 0 is done, 1 means of `update-list` that the plugin has none, 3 that it wants to be called
later (thin-edge.io, "Software Management Plugin API"). Modules that a release does not name stay as
they are.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware_hooks.contract import NO_OPTIONS, InstallerError, Options, Order, RetryLater
from firmware_hooks.durable import explained, write_durably
from firmware_hooks.hook import Ended
from firmware_hooks.options import known, seconds
from firmware_hooks.shelf import Kept, Move, Shelf
from firmware_hooks.tool import failed, run_tool
from sync.stages import Reason

PLUGINS: Final = "/etc/tedge/sm-plugins"
TIMEOUT_S: Final = 300.0
LATER_S: Final = 60.0
LIST: Final = "modules.tsv"
"""Artifact that says what to do: lines as `update-list` reads them, files by artifact name."""
MODULES_COUNT_MAX: Final = 1000
LIST_BYTES_MAX: Final = 8 * 1024 * 1024
NOT_THERE: Final = 1
"""Exit code of `update-list` in a plugin that has none."""
LATER: Final = 3
_PLUGIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_WORD: Final = re.compile(r"[^\s\0-][^\t\n\r\0]{0,254}")


Versions = dict[str, list[str]]
"""Versions by the name of a module; most plugins have one of each."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to do."""

    action: str
    """`install` or `remove`."""
    name: str
    version: str = ""
    """Empty: whichever the plugin takes."""
    file: Path | None = None

    def line(self) -> str:
        """Return it as `update-list` reads it."""
        return "\t".join([self.action, self.name, self.version, str(self.file or "")]) + "\n"

    def words(self) -> list[str]:
        """Return it as arguments of the plugin."""
        version = ["--module-version", self.version] if self.version else []
        file = ["--file", str(self.file)] if self.file is not None else []
        return [self.action, self.name, *version, *file]


class SmPluginInstaller:
    """Lets a software plugin install the modules of one component."""

    def __init__(self, component: str, install_dir: Path, options: Options = NO_OPTIONS) -> None:
        """Keep releases in `install_dir/component`.

        Args:
            component: What is installed.
            install_dir: Where releases are kept.
            options: `plugins`: the folder that the plugins lie in; `timeout_s`: how long each call
                of a plugin may take.

        Raises:
            InstallerError: An option is wrong.
        """
        known("sm-plugin", options, ("plugins", "timeout_s"))
        self._plugins = Path(str(options.get("plugins", PLUGINS)))
        self._timeout_s = seconds("sm-plugin", options, "timeout_s", TIMEOUT_S)
        self._shelf = Shelf("sm-plugin", install_dir / component)
        self.on_progress: Callable[[str], None] = lambda _: None

    def stage(self, order: Order) -> None:
        """Keep the list and its files, and see that the plugin is there."""
        self._shelf.stage(order, self._check)

    def activate(self, digest: bytes) -> None:
        """Let the plugin do what the list says."""
        self._shelf.activate(digest, remember=self._remember, put=self._put, is_there=True)

    def check_trial(self, digest: bytes) -> None:
        """Make sure that the plugin lists every module as the release wants it."""
        if self._shelf.current() != digest:
            raise InstallerError(Reason.INSTALLER_FAILED, "another release is in place")
        release = self._shelf.kept(digest)
        self._require(self._plugin(release), self._items(release))

    def commit(self, digest: bytes) -> None:
        """Nothing is left to do."""

    def roll_back(self, digest: bytes) -> bytes | None:
        """Bring each module back to the version it had before; remove it if it was not there."""
        return self._shelf.roll_back(digest, remember=_nothing, put=self._put)

    def running(self) -> bytes | None:
        """Return the release whose list was last carried out. Whether it holds, the trial tells."""
        return self._shelf.current()

    def folder(self, digest: bytes) -> Path:
        """Return where the release is kept; its files are in `artifacts` below it."""
        return self._shelf.folder(digest)

    def clean_up(self) -> None:
        """Remove releases that neither run nor ran before."""
        self._shelf.clean_up()

    # What a release says.

    def _check(self, release: Kept) -> None:
        self._items(release)
        self._list(self._plugin(release))

    def _plugin(self, release: Kept) -> Path:
        unknown = set(release.manifest.parameters) - {"plugin"}
        name = release.manifest.parameters.get("plugin")
        if unknown or not isinstance(name, str) or not _PLUGIN.fullmatch(name):
            wrong = min(unknown, default="plugin")
            raise InstallerError(
                Reason.MANIFEST_INVALID,
                f"parameter {wrong!r} "
                + ("is not known to the sm-plugin installer" if unknown else "names no plugin"),
            )
        plugin = self._plugins / name
        if not plugin.is_file() or not os.access(plugin, os.X_OK):
            raise InstallerError(
                Reason.REQUIREMENT_UNMET, f"this device has no plugin {plugin}"[:200]
            )
        return plugin

    def _items(self, release: Kept) -> list[Item]:
        """Return what the list of a release says.

        Raises:
            InstallerError: There is none, or a line of it is wrong.
        """
        names = {artifact.name for artifact in release.manifest.artifacts}
        if LIST not in names:
            raise InstallerError(Reason.MANIFEST_INVALID, f"the release has no artifact {LIST!r}")
        try:
            lines = release.artifact(LIST).read_text().splitlines()
        except UnicodeDecodeError:
            raise InstallerError(Reason.MANIFEST_INVALID, f"{LIST} is no text") from None
        except OSError as error:
            raise explained(error) from None
        if not 0 < len(lines) <= MODULES_COUNT_MAX:
            raise InstallerError(
                Reason.MANIFEST_INVALID, f"{LIST} has {len(lines)} lines, 1 to {MODULES_COUNT_MAX}"
            )
        items: dict[tuple[str, str], Item] = {}
        for number, line in enumerate(lines, 1):
            action, name, version, file = (line.split("\t") + [""] * 4)[:4]
            if (
                action not in ("install", "remove")
                or line.count("\t") > 3  # noqa: PLR2004 - four fields
                or not _WORD.fullmatch(name)
                or (version and not _WORD.fullmatch(version))
                or (file and (action == "remove" or file not in names))
                or (name, version) in items
            ):
                raise InstallerError(
                    Reason.MANIFEST_INVALID, f"{LIST}, line {number}: {line[:100]!r}"
                )
            path = release.artifact(file) if file else None
            items[name, version] = Item(action, name, version, path)
        return list(items.values())

    # Before and after.

    def _was_path(self, release: Kept) -> Path:
        return release.folder / "was.json"

    def _was(self, release: Kept) -> Versions:
        """Return the versions that modules had before a release; none for those not there."""
        try:
            found: Versions = json.loads(self._was_path(release).read_bytes())
        except (OSError, ValueError) as error:
            raise InstallerError(
                Reason.ROLLBACK_FAILED, f"what was there before is not known: {error}"[:200]
            ) from None
        return found

    def _remember(self, move: Move) -> None:
        """Write down which versions there are of what the release is going to change."""
        if move.reach is None:
            return
        listed = self._list(self._plugin(move.reach))
        was = {item.name: listed.get(item.name, []) for item in self._items(move.reach)}
        for release in move.touched:
            # What an install that never ended has left there is nothing to go back to.
            if self._plugin(release) == self._plugin(move.reach):
                was |= {name: v for name, v in self._was(release).items() if name in was}
        try:
            write_durably(self._was_path(move.reach), json.dumps(was).encode())
        except OSError as error:
            raise explained(error) from None

    # Acting.

    def _put(self, move: Move) -> None:
        reach = self._items(move.reach) if move.reach is not None else []
        if move.is_back and move.leave is not None:
            try:
                self._bring_back(move.leave, self._was(move.leave), reach)
            except _Later as later:
                # Whatever was done until here is done again then.
                raise RetryLater(later.detail, LATER_S) from None
            except InstallerError as error:
                if error.reason == Reason.HOOK_TIMED_OUT:
                    raise
                raise InstallerError(Reason.ROLLBACK_FAILED, error.detail) from None
        elif move.reach is not None:
            plugin = self._plugin(move.reach)
            named = {item.name for item in reach}
            for release in move.touched:
                if self._plugin(release) == plugin:
                    left = {n: v for n, v in self._was(release).items() if n not in named}
                    self._bring_back(release, left, [])
            try:
                self._carry_out(plugin, reach)
            except _Later as later:
                self._put_off(plugin, move.reach, later)
            self._require(plugin, reach)

    def _bring_back(self, release: Kept, was: Versions, carried: list[Item]) -> None:
        """Bring modules back to the versions they had before a release.

        Args:
            release: The one that is undone.
            was: Modules that it changed, with the versions they had.
            carried: What is on the device again afterwards; it may still carry the files.
        """
        plugin = self._plugin(release)
        files = {(item.name, item.version): item.file for item in carried}
        installs = [
            Item("install", name, version, files.get((name, version)))
            for name, versions in was.items()
            for version in versions
        ]
        listed = self._list(plugin)
        # A release that removes a version when it installs another says that the plugin keeps them
        # beside each other, so its own goes first, as it came last.
        beside = {item.name for item in self._items(release) if item.action == "remove"}
        first = _removals([name for name in was if name in beside], listed, was)
        new = [name for name in was if not was[name] and name not in beside]
        self._carry_out(plugin, [*first, *installs, *_removals(new, listed, was)])
        listed = self._list(plugin)
        more = _removals(was, listed, was)
        if more:
            # The plugin keeps versions beside each other, and what it removes now may have been
            # put over what it has just installed.
            self._carry_out(plugin, [*more, *installs])
            listed = self._list(plugin)
        for name, versions in was.items():
            if sorted(listed.get(name, [])) != sorted(versions):
                raise InstallerError(
                    Reason.INSTALLER_FAILED,
                    f"{name} is there as {listed.get(name, [])} instead of {versions}"[:200],
                )

    def _put_off(self, plugin: Path, release: Kept, later: "_Later") -> None:
        """Grant a plugin that it is called later, if it has done nothing yet."""
        listed = self._list(plugin)
        if any(listed.get(name, []) != was for name, was in self._was(release).items()):
            raise InstallerError(
                Reason.INSTALLER_FAILED, f"{later.detail}; it had begun, so it was given up"[:200]
            )
        raise RetryLater(later.detail, LATER_S)

    def _carry_out(self, plugin: Path, items: list[Item]) -> None:
        """Have it all done: prepare, the modules, finalize."""
        if not items:
            return
        self._do(plugin, "prepare")
        try:
            self._do_items(plugin, items)
        except InstallerError:
            with contextlib.suppress(InstallerError):
                self._call(plugin, ["finalize"])  # it was prepared, so it may hold a lock
            raise
        self._do(plugin, "finalize")

    def _do_items(self, plugin: Path, items: list[Item]) -> None:
        lines = "".join(item.line() for item in items)
        ended = self._call(plugin, ["update-list"], stdin=lines.encode())
        if ended.code != NOT_THERE:
            self._judge(plugin, "update-list", ended)
            return
        for item in items:
            self._do(plugin, *item.words())

    def _do(self, plugin: Path, *words: str) -> None:
        self._judge(plugin, " ".join(words[:2]), self._call(plugin, list(words)))

    def _judge(self, plugin: Path, what: str, ended: Ended) -> None:
        error = failed(f"{plugin.name} {what}", ended)
        if ended.code == LATER:
            raise _Later(error.reason, error.detail)
        if ended.code != 0:
            raise error

    def _call(self, plugin: Path, words: list[str], stdin: bytes | None = None) -> Ended:
        return run_tool(
            [plugin, *words],
            folder=Path("/"),
            timeout_s=self._timeout_s,
            stdin=stdin,
            on_line=None if words[0] == "list" else self.on_progress,
            stdout_bytes_max=LIST_BYTES_MAX,
        )

    def _list(self, plugin: Path) -> Versions:
        """Return the modules that are installed, with their versions."""
        ended = self._call(plugin, ["list"])
        if ended.code != 0:
            raise failed(f"{plugin.name} list", ended, Reason.REQUIREMENT_UNMET)
        found: Versions = {}
        for line in ended.stdout.decode(errors="replace").splitlines():
            name, _, version = line.partition("\t")
            if name:
                found.setdefault(name, []).append(version.partition("\t")[0])
        return found

    def _require(self, plugin: Path, items: list[Item]) -> None:
        """Make sure that the plugin lists what it has done."""
        listed = self._list(plugin)
        for item in items:
            there = listed.get(item.name, [])
            is_there = item.version in there if item.version else bool(there)
            if is_there != (item.action == "install"):
                raise InstallerError(
                    Reason.INSTALLER_FAILED,
                    f"after {' '.join(item.words()[:2])} {item.version} the plugin lists "
                    f"{item.name} as {there}"[:200],
                )


def _removals(names: Iterable[str], listed: Versions, was: Versions) -> list[Item]:
    """Return what removes the versions that were not there before."""
    return [
        Item("remove", name, version)
        for name in names
        for version in listed.get(name, [])
        if version not in was[name]
    ]


class _Later(InstallerError):
    """A plugin wants to be called later."""


def _nothing(_: Move) -> None:
    """The versions to go back to were written down when the move forward began."""
