"""Releases made of parts: all of them, or none, whatever fails and wherever the power goes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_hooks.contract import InstallerError, Order, RetryLater
from firmware_hooks.directory import DirectoryInstaller
from firmware_hooks.series import Member, Series
from sync.manifest import Artifact, Health, Manifest, PartOf
from sync.stages import Reason
from tests.firmware_hooks.trees import file, tar

NAMES = ("app", "models", "web")


class PowerCut(BaseException):
    """The device is gone in the middle of a call."""


class Trouble:
    """What is to go wrong, at which call of a part."""

    def __init__(self) -> None:
        self.calls = 0
        self.cut_at = 0
        self.fails: set[tuple[str, str]] = set()
        self.waits: set[tuple[str, str]] = set()

    def around(self, part: str, call: str, act: Callable[[], Any]) -> Any:
        for is_before in (True, False):
            self.calls += 1
            if self.calls == self.cut_at:
                raise PowerCut
            if is_before:
                if (part, call) in self.waits:
                    raise RetryLater("the machine is in use", 60)
                if (part, call) in self.fails:
                    raise InstallerError(Reason.INSTALLER_FAILED, f"{call} fails")
                done = act()
        return done


class Troubled:
    """The directory installer, with trouble."""

    def __init__(self, part: str, folder: Path, trouble: Trouble) -> None:
        self._inner: Any = DirectoryInstaller(part, folder)
        self._part = part
        self._trouble = trouble

    def __getattr__(self, call: str) -> Any:
        act = getattr(self._inner, call)
        if call in ("running", "folder"):
            return act
        return lambda *given: self._trouble.around(self._part, call, lambda: act(*given))


class Bench(NamedTuple):
    folder: Path
    trouble: Trouble

    def series(self) -> Series:
        members = [
            Member(name, Troubled(name, self.folder / "lamp" / "parts", self.trouble))
            for name in NAMES
        ]
        return Series("lamp", self.folder, members)

    def order(self, version: str) -> Order:
        files = {name: tar(file("VERSION", f"{name} {version}".encode())) for name in NAMES}
        for name, content in files.items():
            (self.folder / f"{name}-{version}").write_bytes(content)
        manifest = Manifest(
            component="lamp",
            version=version,
            parts=tuple(PartOf(name=name, installer="directory") for name in NAMES),
            artifacts=tuple(
                Artifact(
                    name=name,
                    sha256=hashlib.sha256(content).hexdigest(),
                    length_bytes=len(content),
                    part=name,
                )
                for name, content in files.items()
            ),
            health=Health(command=("true",)),
        )
        paths = {name: self.folder / f"{name}-{version}" for name in NAMES}
        return Order(manifest, manifest.digest(), paths, 10_000_000)

    def versions(self) -> dict[str, str]:
        found = {}
        for name in NAMES:
            current = self.folder / "lamp" / "parts" / name / "current" / "VERSION"
            found[name] = current.read_text() if current.exists() else ""
        return found

    def run(self, version: str) -> Order:
        order = self.order(version)
        series = self.series()
        series.stage(order)
        series.activate(order.digest)
        series.check_trial(order.digest)
        series.commit(order.digest)
        series.clean_up()
        return order


def all_of(version: str) -> dict[str, str]:
    return {name: f"{name} {version}" for name in NAMES}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Trouble())


def test_all_parts_run_together_and_are_found_by_their_names(bench: Bench) -> None:
    order = bench.run("1")

    assert bench.series().running() == order.digest
    assert bench.versions() == all_of("1")
    folder = bench.series().folder(order.digest)
    assert {name: (folder / name / "VERSION").read_text() for name in NAMES} == all_of("1")


@pytest.mark.parametrize("part", NAMES)
def test_a_part_that_cannot_be_staged_leaves_everything_as_it_was(bench: Bench, part: str) -> None:
    old, new = bench.run("1"), bench.order("2")
    bench.trouble.fails = {(part, "stage")}

    with pytest.raises(InstallerError):
        bench.series().stage(new)

    assert bench.series().running() == old.digest
    assert bench.versions() == all_of("1")


@pytest.mark.parametrize("part", NAMES)
def test_a_part_that_cannot_be_put_in_place_takes_all_back(bench: Bench, part: str) -> None:
    old, new = bench.run("1"), bench.order("2")
    bench.trouble.fails = {(part, "activate")}
    bench.series().stage(new)
    with pytest.raises(InstallerError):
        bench.series().activate(new.digest)

    assert bench.series().roll_back(new.digest) == old.digest

    assert bench.versions() == all_of("1")


@pytest.mark.parametrize("part", NAMES)
def test_a_part_that_cannot_be_taken_back_is_named_and_the_others_are(
    bench: Bench, part: str
) -> None:
    bench.run("1")
    new = bench.order("2")
    series = bench.series()
    series.stage(new)
    series.activate(new.digest)
    bench.trouble.fails = {(part, "roll_back")}

    with pytest.raises(InstallerError) as failed:
        series.roll_back(new.digest)

    assert failed.value.reason == Reason.INCONSISTENT
    assert failed.value.detail.startswith(f"{part}: ")
    assert bench.versions() == {**all_of("1"), part: f"{part} 2"}
    assert series.running() is None


def test_the_first_release_can_be_taken_back_to_nothing(bench: Bench) -> None:
    order = bench.order("1")
    bench.series().stage(order)
    bench.series().activate(order.digest)

    assert bench.series().roll_back(order.digest) is None
    assert bench.versions() == dict.fromkeys(NAMES, "")


def test_what_is_gone_is_no_longer_linked_to(bench: Bench) -> None:
    first = bench.run("1")
    for version in ("2", "3"):
        last = bench.run(version)

    assert not bench.series().folder(first.digest).exists()
    assert bench.series().folder(last.digest).is_dir()


def test_two_parts_that_await_a_reboot_get_one(bench: Bench) -> None:
    class Rebooting(DirectoryInstaller):
        def awaits_reboot(self) -> tuple[str, ...] | None:
            return ("0 tryboot",)

    plain = Member("app", DirectoryInstaller("app", bench.folder))
    two = [Member(name, Rebooting(name, bench.folder)) for name in ("models", "web")]

    assert Series("lamp", bench.folder, [plain]).awaits_reboot() is None
    assert Series("lamp", bench.folder, [plain, *two]).awaits_reboot() == ("0 tryboot",)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(1, 30), max_size=4),
    fails=st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(["stage", "activate"]))),
)
def test_whatever_fails_and_wherever_the_power_goes_all_parts_are_of_one_release(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], fails: set[tuple[str, str]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("series"), Trouble())
    old, new = bench.run("1"), bench.order("2")
    bench.trouble.fails = fails
    left = list(cuts)
    step = 0

    def act() -> None:
        nonlocal step
        bench.trouble.calls = 0
        bench.trouble.cut_at = left.pop() if left else 0
        series = bench.series()
        if step == 0:
            series.stage(new)
            step = 1
        if step == 1:
            series.activate(new.digest)
            series.check_trial(new.digest)
            step = 2
        if step == 2:
            series.commit(new.digest)
            step = 3
        if step == 4:
            series.roll_back(new.digest)
            step = 5

    while step not in (3, 5):
        try:
            act()
        except PowerCut:
            continue
        except InstallerError:
            step = 4 if step == 1 else 5

    ended = new if step == 3 else old
    assert bench.series().running() == ended.digest
    assert bench.versions() == all_of("2" if step == 3 else "1")


@pytest.mark.parametrize("part", NAMES)
def test_while_a_part_asks_to_wait_all_parts_are_the_old_ones(bench: Bench, part: str) -> None:
    old, new = bench.run("1"), bench.order("2")
    series = bench.series()
    series.stage(new)
    for _ in range(3):
        bench.trouble.waits = {(part, "activate")}
        with pytest.raises(RetryLater, match=f"{part}: the machine is in use") as later:
            series.activate(new.digest)
        assert later.value.wait_s == 60
        assert series.running() == old.digest
        assert bench.versions() == all_of("1")
    bench.trouble.waits = set()
    series.activate(new.digest)
    series.check_trial(new.digest)
    assert series.running() == new.digest
    assert bench.versions() == all_of("2")


def test_a_part_that_cannot_be_taken_back_before_a_wait_is_no_wait(bench: Bench) -> None:
    old, new = bench.run("1"), bench.order("2")
    series = bench.series()
    series.stage(new)
    bench.trouble.waits = {("web", "activate")}
    bench.trouble.fails = {("models", "roll_back")}
    with pytest.raises(InstallerError) as failed:
        series.activate(new.digest)
    assert not isinstance(failed.value, RetryLater)
    bench.trouble.fails = set()
    assert series.roll_back(new.digest) == old.digest
    assert bench.versions() == all_of("1")


def test_killed_anywhere_while_parts_are_taken_back_for_a_wait_it_ends_with_all_or_none(
    tmp_path: Path,
) -> None:
    cut_at = 1
    while True:
        folder = tmp_path / str(cut_at)
        folder.mkdir()
        bench = Bench(folder, Trouble())
        old, new = bench.run("1"), bench.order("2")
        bench.series().stage(new)
        bench.trouble.calls, bench.trouble.cut_at = 0, cut_at
        bench.trouble.waits = {("web", "activate")}
        try:
            with pytest.raises(RetryLater):
                bench.series().activate(new.digest)
        except PowerCut:
            bench.trouble.cut_at = 0
            with pytest.raises(RetryLater):
                bench.series().activate(new.digest)
            assert bench.series().running() == old.digest
            assert bench.versions() == all_of("1")
            cut_at += 1
        else:
            break
    assert cut_at > 8


def test_a_part_that_wants_to_wait_on_the_way_back_keeps_no_other_part(bench: Bench) -> None:
    old, new = bench.run("1"), bench.order("2")
    series = bench.series()
    series.stage(new)
    series.activate(new.digest)
    bench.trouble.waits = {("models", "roll_back")}
    with pytest.raises(RetryLater, match="models"):
        series.roll_back(new.digest)
    assert bench.versions() == {**all_of("1"), "models": "models 2"}
    assert series.running() is None
    bench.trouble.fails = {("web", "roll_back")}
    with pytest.raises(InstallerError) as failed:
        series.roll_back(new.digest)
    assert not isinstance(failed.value, RetryLater)
    bench.trouble.waits = bench.trouble.fails = set()
    assert series.roll_back(new.digest) == old.digest
    assert bench.versions() == all_of("1")


def test_a_part_that_waits_while_it_is_taken_back_for_the_wait_of_another_is_a_failure(
    bench: Bench,
) -> None:
    bench.run("1")
    new = bench.order("2")
    bench.series().stage(new)
    bench.trouble.waits = {(NAMES[-1], "activate"), (NAMES[0], "roll_back")}

    with pytest.raises(InstallerError) as failed:
        bench.series().activate(new.digest)

    assert not isinstance(failed.value, RetryLater)
    bench.trouble.waits = set()
    bench.series().roll_back(new.digest)
    assert bench.versions() == {name: f"{name} 1" for name in NAMES}


def test_a_part_that_falls_over_keeps_no_other_from_going_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run("1")
    new = bench.order("2")
    bench.series().stage(new)
    bench.series().activate(new.digest)
    around = Trouble.around

    def fall(trouble: Trouble, part: str, call: str, act: Callable[[], Any]) -> Any:
        if (part, call) == (NAMES[-1], "roll_back"):
            raise KeyError("a fault of somebody's program")
        return around(trouble, part, call, act)

    monkeypatch.setattr(Trouble, "around", fall)
    with pytest.raises(InstallerError) as failed:
        bench.series().roll_back(new.digest)

    assert "a fault of somebody's program" in failed.value.detail
    now = bench.versions()
    assert {name: now[name] for name in NAMES[:-1]} == {name: f"{name} 1" for name in NAMES[:-1]}
