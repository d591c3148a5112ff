import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from firmware_hooks import hook
from firmware_hooks.contract import InstallerError, Order, RetryLater
from firmware_hooks.mender import ledger, streams
from firmware_hooks.mender_module import MenderModuleInstaller
from sync.stages import Reason
from tests.firmware_hooks.mender import device, mender_order

TRACER: Final = """#!/bin/sh
LOG={log}
echo "$1" >> $LOG
if [ -e "{folder}/fail-$1" ]; then
    left=$(cat "{folder}/fail-$1")
    if [ "$left" != 0 ]; then echo $((left - 1)) > "{folder}/fail-$1"; echo "no $1" >&2; exit 3; fi
fi
if [ -e "{folder}/answer-$1" ]; then cat "{folder}/answer-$1"; fi
{more}
exit 0
"""

SCRIPT: Final = """#!/bin/sh
echo "$(basename "$0")" >> {log}
if [ -e "{folder}/exit-$(basename "$0")" ]; then
    code=$(cat "{folder}/exit-$(basename "$0")")
    rm "{folder}/exit-$(basename "$0")"
    echo "script says $code" >&2
    exit $code
fi
"""

FILES: Final = {"a.txt": b"hello", "b bin": bytes(range(256)) * 1000, "empty": b""}

STATES: Final = (
    "ArtifactInstall",
    "ArtifactReboot",
    "ArtifactCommit",
    "ArtifactRollback",
    "ArtifactRollbackReboot",
    "ArtifactFailure",
)

ALL_SCRIPTS: Final = [
    f"{state}_{when}_00" for state in STATES for when in ("Enter", "Leave", "Error")
]


class Device:
    """A device with a module that writes down what it is called with, and answers as it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
        self.folder = folder / "device"
        self.folder.mkdir()
        self._orders = folder / "orders"
        self._orders.mkdir()
        self.log = self.folder / "log"
        device(self.folder, {"trace": TRACER.format(log=self.log, folder=self.folder, more=more)})
        self.answer("SupportsRollback", "Yes")
        self.options: dict[str, str | float] = {
            "modules_dir": f"{self.folder}/modules",
            "scripts_dir": f"{self.folder}/scripts",
            "script_retry_s": 0.01,
        }
        self._boot = "first"
        monkeypatch.setattr(ledger, "BOOT_ID", self.folder / "boot-id")
        self.reboot("first")
        self.progress: list[str] = []

    @property
    def installer(self) -> MenderModuleInstaller:
        """Return one that knows only what is on the disk."""
        made = MenderModuleInstaller("lamp", self.folder / "install", self.options)
        made.on_progress = self.progress.append
        return made

    @property
    def tree(self) -> Path:
        return self.folder / "install/lamp/payloads/0000/tree"

    def reboot(self, boot: str) -> None:
        (self.folder / "boot-id").write_text(boot)

    def answer(self, query: str, text: str) -> None:
        (self.folder / f"answer-{query}").write_text(text)

    def fail(self, state: str, times: int = 1_000) -> None:
        (self.folder / f"fail-{state}").write_text(str(times))

    def exits(self, script: str, code: int) -> None:
        (self.folder / f"exit-{script}").write_text(str(code))

    def device_scripts(self, *names: str, version: str = "3") -> None:
        folder = self.folder / "scripts"
        folder.mkdir()
        (folder / "version").write_text(version)
        for name in names:
            (folder / name).write_text(SCRIPT.format(log=self.log, folder=self.folder))
            (folder / name).chmod(0o755)

    def order(
        self,
        version: str = "1",
        files: Mapping[str, bytes] = FILES,
        scripts: tuple[str, ...] = (),
        **more: Any,
    ) -> Order:
        text = SCRIPT.format(log=self.log, folder=self.folder).encode()
        given = {name: text + f"# {name}".encode() for name in scripts}
        return mender_order(
            self._orders, version, files, kind=more.pop("kind", "trace"), scripts=given, **more
        )

    def calls(self) -> list[str]:
        """Return what was called since this was last asked, without what 3.4.0 never asks."""
        found = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [each for each in found if each != "ProvidePayloadFileSizes"]

    def activate(self, order: Order) -> None:
        self.installer.stage(order)
        self.installer.activate(order.digest)

    def install(self, order: Order) -> None:
        self.activate(order)
        self.installer.check_trial(order.digest)
        self.installer.commit(order.digest)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


STREAMS: Final = """
if [ "$1" = Download ] || [ "$1" = DownloadWithFileSizes ]; then
    while true; do
        line=$(cat stream-next)
        if [ -z "$line" ]; then break; fi
        echo "$line" >> {folder}/lines
        name=$(echo "$line" | sed 's/ [0-9]*$//')
        [ "$1" = Download ] && name="$line"
        cat "$name" > "tmp/$(basename "$name")"
    done
fi
"""


# The order of calls.


def test_a_good_install_is_the_row_of_states_that_the_client_makes(bench: Device) -> None:
    order = bench.order(scripts=tuple(ALL_SCRIPTS))

    bench.installer.stage(order)
    assert bench.calls() == ["Download", "SupportsRollback"]
    bench.installer.activate(order.digest)
    assert bench.calls() == [
        "ArtifactInstall_Enter_00",
        "ArtifactInstall",
        "ArtifactInstall_Leave_00",
        "NeedsArtifactReboot",
    ]
    bench.installer.check_trial(order.digest)
    assert bench.calls() == ["ArtifactCommit_Enter_00"]
    bench.installer.commit(order.digest)
    assert bench.calls() == ["ArtifactCommit", "ArtifactCommit_Leave_00", "Cleanup"]
    assert not bench.tree.exists()
    assert bench.installer.running() == order.digest


def test_an_install_that_fails_is_the_row_of_states_that_the_client_makes(bench: Device) -> None:
    order = bench.order(scripts=tuple(ALL_SCRIPTS))
    bench.fail("ArtifactInstall")
    bench.installer.stage(order)
    bench.calls()

    with pytest.raises(InstallerError, match=r"ArtifactInstall ended with 3: no ArtifactInstall"):
        bench.installer.activate(order.digest)
    assert bench.installer.roll_back(order.digest) is None

    assert bench.calls() == [
        "ArtifactInstall_Enter_00",
        "ArtifactInstall",
        "ArtifactInstall_Error_00",
        "SupportsRollback",
        "ArtifactRollback_Enter_00",
        "ArtifactRollback",
        "ArtifactRollback_Leave_00",
        "ArtifactFailure_Enter_00",
        "ArtifactFailure",
        "ArtifactFailure_Leave_00",
        "Cleanup",
    ]


def test_only_clean_up_follows_a_download_that_fails_and_nothing_is_left(bench: Device) -> None:
    bench.fail("Download")

    with pytest.raises(InstallerError, match="no Download"):
        bench.installer.stage(bench.order())

    assert bench.calls() == ["Download", "Cleanup"]
    assert not bench.tree.exists()
    assert bench.installer.roll_back(bench.order().digest) is None


def test_what_was_staged_and_never_installed_is_only_cleaned_up(bench: Device) -> None:
    bench.installer.stage(bench.order())
    bench.calls()

    bench.installer.clean_up()

    assert bench.calls() == ["Cleanup"]
    assert not bench.tree.exists()


def test_another_release_takes_the_place_of_one_that_was_staged(bench: Device) -> None:
    first, second = bench.order("1"), bench.order("2")
    bench.installer.stage(first)
    bench.installer.stage(second)

    assert bench.calls() == [
        *("Download", "SupportsRollback", "Cleanup"),
        *("Download", "SupportsRollback"),
    ]
    with pytest.raises(InstallerError, match="not staged"):
        bench.installer.activate(first.digest)
    bench.installer.activate(second.digest)


def test_an_unknown_module_is_named_before_anything_happens(bench: Device) -> None:
    with pytest.raises(InstallerError, match="no update module") as refused:
        bench.installer.stage(bench.order(kind="other"))

    assert refused.value.reason == Reason.UNKNOWN_INSTALLER
    assert not (bench.folder / "install").exists()


# The tree.


def test_the_tree_is_laid_out_as_the_protocol_says(bench: Device) -> None:
    bench.install(bench.order("0", artifact="factory"))
    order = bench.order(meta_data=b'{"a": 1}', artifact="release one")
    bench.installer.stage(order)

    found = {
        path.relative_to(bench.tree).as_posix(): path.read_bytes()
        for path in bench.tree.rglob("*")
        if path.is_file()
    }
    assert found == {
        "version": b"3\n",
        "current_artifact_name": b"factory\n",
        "current_artifact_group": b"\n",
        "current_device_type": b"\n",
        "header/artifact_group": b"",
        "header/artifact_name": b"release one",
        "header/payload_type": b"trace",
        "header/header-info": b'{"payloads": [{"type": "trace"}]}',
        "header/type-info": b'{"type": "trace"}',
        "header/meta-data": b'{"a": 1}',
        **{f"files/{name}": content for name, content in FILES.items()},
    }
    assert (bench.tree / "tmp").is_dir()
    modes = {path.stat().st_mode & 0o777 for path in bench.tree.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_a_module_is_called_in_its_tree_with_two_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Device(tmp_path, monkeypatch, 'echo "$(pwd) $# $2" >> "$LOG.calls"')
    bench.install(bench.order())

    said = set((bench.folder / "log.calls").read_text().splitlines())
    assert said == {f"{bench.tree} 2 {bench.tree}"}


@pytest.mark.parametrize("with_sizes", [False, True])
def test_a_module_that_wants_streams_gets_each_file_whole_and_no_pipe_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_sizes: bool
) -> None:
    bench = Device(tmp_path, monkeypatch)
    more = STREAMS.format(folder=bench.folder)
    device(bench.folder, {"trace": TRACER.format(log=bench.log, folder=bench.folder, more=more)})
    if with_sizes:
        bench.answer("ProvidePayloadFileSizes", "Yes\n")

    bench.installer.stage(bench.order())

    sizes = [f" {len(content)}" if with_sizes else "" for content in FILES.values()]
    lines = (bench.folder / "lines").read_text().splitlines()
    assert lines == [f"streams/{name}{size}" for name, size in zip(FILES, sizes, strict=True)]
    assert bench.calls()[0] == ("DownloadWithFileSizes" if with_sizes else "Download")
    assert {path.name: path.read_bytes() for path in (bench.tree / "tmp").iterdir()} == FILES
    left = {path.name for path in bench.tree.iterdir()}
    assert left.isdisjoint({"streams", "stream-next", "files"})


@pytest.mark.parametrize(
    "act",
    [
        "cat stream-next > /dev/null",
        "cat $(cat stream-next) > /dev/null",
        "head -c 10 $(cat stream-next) > /dev/null; cat stream-next",
        "line=$(cat stream-next); dd if=$line of=/dev/null bs=1 count=1 2>/dev/null",
    ],
)
def test_a_module_that_does_not_read_all_of_its_streams_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    bench = Device(tmp_path, monkeypatch, f'if [ "$1" = Download ]; then {act}; exit 0; fi')
    files = {"large": bytes(1_000_000), "second": b"x"}

    with pytest.raises(InstallerError, match="not read all of the payload"):
        bench.installer.stage(bench.order(files=files))

    assert bench.calls() == ["Download", "Cleanup"]


def test_a_module_that_read_everything_need_not_ask_whether_there_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = 'if [ "$1" = Download ]; then cat $(cat stream-next) > tmp/all; exit 0; fi'
    bench = Device(tmp_path, monkeypatch, act)
    bench.installer.stage(bench.order(files={"only": b"this"}))

    assert (bench.tree / "tmp/all").read_bytes() == b"this"
    assert not (bench.tree / "files").exists()


def test_a_module_that_hangs_in_the_middle_of_a_stream_is_ended_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "GRACE_S", 0.2)
    act = 'if [ "$1" = Download ]; then exec 3< $(cat stream-next); sleep 600; fi'
    bench = Device(tmp_path, monkeypatch, act)
    bench.options["timeout_s"] = 1.0

    with pytest.raises(InstallerError) as late:
        bench.installer.stage(bench.order(files={"large": bytes(1_000_000)}))

    assert late.value.reason == Reason.HOOK_TIMED_OUT
    assert not bench.tree.exists()


def test_a_module_that_removes_the_pipes_has_failed_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LET_GO_TRIES", 5)
    act = 'if [ "$1" = Download ]; then cat stream-next >/dev/null; rm -r streams stream-next; fi'
    bench = Device(tmp_path, monkeypatch, act)

    with pytest.raises(InstallerError, match="not read all of the payload"):
        bench.installer.stage(bench.order())

    assert not bench.tree.exists()


def test_what_lies_where_the_tree_goes_is_removed_first(bench: Device) -> None:
    (bench.tree / "files").mkdir(parents=True)
    (bench.tree / "files/old").touch()

    bench.installer.stage(bench.order())

    assert not (bench.tree / "files/old").exists()


def test_a_payload_without_files_is_handed_over_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Device(tmp_path, monkeypatch, '[ "$1" = Download ] && cat stream-next > tmp/next')
    bench.installer.stage(bench.order(files={}))

    assert (bench.tree / "tmp/next").read_bytes() == b""


def test_a_payload_that_is_larger_than_allowed_is_refused(bench: Device) -> None:
    order = bench.order()
    small = Order(order.manifest, order.digest, order.artifacts, 1000)

    with pytest.raises(InstallerError) as refused:
        bench.installer.stage(small)

    assert refused.value.reason == Reason.TOO_LARGE
    assert bench.calls() == ["Download", "Cleanup"]


# Answers.


@pytest.mark.parametrize("answer", ["Yes\nNo\n", "No\n\n", "x" * 5000, "Maybe\n"])
def test_an_answer_that_is_none_of_the_protocol_is_a_failure(bench: Device, answer: str) -> None:
    bench.answer("NeedsArtifactReboot", answer)
    bench.installer.stage(bench.order())

    with pytest.raises(InstallerError, match="NeedsArtifactReboot"):
        bench.installer.activate(bench.order().digest)
    assert bench.installer.roll_back(bench.order().digest) is None


def test_a_module_that_cannot_go_back_leaves_the_device_and_says_so_each_time(
    bench: Device,
) -> None:
    bench.answer("SupportsRollback", "No")
    old, new = bench.order("1"), bench.order("2")
    bench.install(old)
    bench.activate(new)
    bench.calls()

    for _ in range(2):
        with pytest.raises(InstallerError) as stuck:
            bench.installer.roll_back(new.digest)
        assert stuck.value.reason == Reason.ROLLBACK_FAILED

    assert bench.calls() == ["SupportsRollback", "ArtifactFailure", "Cleanup"]
    assert bench.installer.running() == new.digest
    with pytest.raises(InstallerError) as doubtful:
        bench.installer.check_trial(new.digest)
    assert doubtful.value.reason == Reason.INCONSISTENT


def test_a_release_that_was_left_inconsistent_is_installed_again_as_a_whole(
    bench: Device,
) -> None:
    order = bench.order()
    bench.activate(order)
    bench.fail("ArtifactRollback", 1)
    with pytest.raises(InstallerError, match="no ArtifactRollback"):
        bench.installer.roll_back(order.digest)
    bench.calls()

    bench.install(order)

    assert "ArtifactInstall" in bench.calls()
    bench.installer.check_trial(order.digest)


# Restarts.


def test_a_module_that_restarts_what_it_updates_is_let_do_so(bench: Device) -> None:
    bench.answer("NeedsArtifactReboot", "Yes")
    order = bench.order(scripts=tuple(ALL_SCRIPTS))
    bench.installer.stage(order)
    bench.calls()

    bench.installer.activate(order.digest)
    assert bench.installer.awaits_reboot() is None
    assert bench.installer.running() == order.digest
    bench.installer.check_trial(order.digest)

    assert bench.calls() == [
        "ArtifactInstall_Enter_00",
        "ArtifactInstall",
        "ArtifactInstall_Leave_00",
        "NeedsArtifactReboot",
        "ArtifactReboot_Enter_00",
        "ArtifactReboot",
        "ArtifactVerifyReboot",
        "ArtifactReboot_Leave_00",
        "ArtifactCommit_Enter_00",
    ]


def test_a_restart_of_the_device_is_awaited_and_verified_and_until_then_the_old_one_runs(
    bench: Device,
) -> None:
    old, new = bench.order("1"), bench.order("2")
    bench.install(old)
    bench.answer("NeedsArtifactReboot", "Automatic")
    bench.activate(new)
    bench.calls()

    for _ in range(2):
        assert bench.installer.awaits_reboot() == ()
        assert bench.installer.running() == old.digest
        with pytest.raises(InstallerError):
            bench.installer.check_trial(new.digest)
        bench.installer.activate(new.digest)
    bench.reboot("second")
    assert bench.installer.awaits_reboot() is None
    assert bench.installer.running() == new.digest
    bench.installer.check_trial(new.digest)
    bench.installer.commit(new.digest)

    assert bench.calls() == ["ArtifactVerifyReboot", "ArtifactCommit", "Cleanup"]


def test_a_device_that_booted_the_old_release_has_fallen_back_and_goes_back(
    bench: Device,
) -> None:
    old, new = bench.order("1"), bench.order("2")
    bench.install(old)
    bench.answer("NeedsArtifactReboot", "Automatic")
    bench.fail("ArtifactVerifyReboot")
    bench.activate(new)
    bench.reboot("second")
    bench.calls()

    for _ in range(2):
        with pytest.raises(InstallerError) as fell:
            bench.installer.check_trial(new.digest)
        assert fell.value.reason == Reason.FELL_BACK
        assert bench.installer.running() == old.digest
    assert bench.installer.roll_back(new.digest) == old.digest
    assert bench.installer.awaits_reboot() == ()
    bench.reboot("third")
    assert bench.installer.running() is None
    assert bench.installer.awaits_reboot() is None
    assert bench.installer.running() == old.digest
    assert bench.installer.roll_back(new.digest) == old.digest

    assert bench.calls() == [
        "ArtifactVerifyReboot",
        "SupportsRollback",
        "ArtifactRollback",
        "ArtifactVerifyRollbackReboot",
        "ArtifactFailure",
        "Cleanup",
    ]


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_after_a_restart_on_the_way_back_the_module_says_first_whether_it_led_there(
    bench: Device, failures: int
) -> None:
    old, new = bench.order("1"), bench.order("2")
    bench.install(old)
    bench.answer("NeedsArtifactReboot", "Automatic")
    if failures:
        bench.fail("ArtifactVerifyRollbackReboot", failures)
    bench.activate(new)
    bench.reboot("second")
    bench.installer.check_trial(new.digest)
    assert bench.installer.roll_back(new.digest) == old.digest
    restarts = 0
    while bench.installer.awaits_reboot() is not None:
        restarts += 1
        bench.reboot(f"back-{restarts}")
        assert bench.installer.running() is None

    assert restarts == min(failures + 1, 3)
    assert bench.installer.running() == (new.digest if failures == 3 else old.digest)
    bench.installer.clean_up()
    bench.answer("NeedsArtifactReboot", "No")
    bench.install(bench.order("3"))


@pytest.mark.parametrize("answer", ["Yes", "Automatic"])
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_restarting_into_the_old_release_is_tried_three_times(
    bench: Device, answer: str, failures: int
) -> None:
    bench.answer("NeedsArtifactReboot", answer)
    bench.fail("ArtifactVerifyRollbackReboot", failures)
    order = bench.order()
    bench.activate(order)
    bench.reboot("second")
    bench.installer.check_trial(order.digest)
    bench.calls()

    ended: InstallerError | None = None
    for boot in ("third", "fourth", "fifth", "sixth"):
        try:
            bench.installer.roll_back(order.digest)
        except InstallerError as error:
            ended = ended or error
        if bench.installer.awaits_reboot() is not None:
            bench.reboot(boot)
    called = bench.calls()

    assert called.count("ArtifactVerifyRollbackReboot") == min(failures + 1, 3)
    if answer == "Yes":
        assert called.count("ArtifactRollbackReboot") == min(failures + 1, 3)
    assert called[-2:] == ["ArtifactFailure", "Cleanup"]
    assert (ended is not None) == (failures == 3)
    assert bench.installer.running() == (order.digest if failures == 3 else None)


# Scripts.


def test_scripts_run_in_the_order_of_their_numbers_and_what_is_no_script_does_not(
    bench: Device,
) -> None:
    bench.device_scripts("Download_Enter_10_b", "Download_Enter_05_a", "Download_Leave_00", "note")
    names = ("ArtifactInstall_Enter_20_late", "ArtifactInstall_Enter_03", "ArtifactCommit_Enter_00")
    order = bench.order(scripts=names)

    bench.activate(order)

    assert bench.calls() == [
        "Download_Enter_05_a",
        "Download_Enter_10_b",
        "Download",
        "Download_Leave_00",
        "SupportsRollback",
        "ArtifactInstall_Enter_03",
        "ArtifactInstall_Enter_20_late",
        "ArtifactInstall",
        "NeedsArtifactReboot",
    ]


def test_scripts_of_the_device_without_a_known_version_are_not_run(bench: Device) -> None:
    bench.device_scripts("Download_Enter_00", version="4")

    with pytest.raises(InstallerError, match="version 2 or 3"):
        bench.installer.stage(bench.order())

    assert bench.calls() == []


def test_a_script_before_the_switch_that_says_later_is_gone_on_with_at_the_next_call(
    bench: Device,
) -> None:
    names = ("ArtifactInstall_Enter_00", "ArtifactInstall_Enter_01", "ArtifactInstall_Enter_02")
    bench.exits("ArtifactInstall_Enter_01", 21)
    order = bench.order(scripts=names)
    bench.installer.stage(order)
    bench.calls()

    with pytest.raises(RetryLater, match="ArtifactInstall_Enter_01") as later:
        bench.installer.activate(order.digest)
    assert later.value.wait_s == 0.01
    assert bench.installer.running() is None
    bench.installer.stage(order)
    bench.installer.activate(order.digest)

    assert bench.calls() == [*names[:2], *names[1:], "ArtifactInstall", "NeedsArtifactReboot"]


@pytest.mark.parametrize("script", ["Download_Enter_00", "Download_Leave_00"])
def test_a_script_of_the_download_that_says_later_is_called_again_by_the_next_stage(
    bench: Device, script: str
) -> None:
    bench.device_scripts("Download_Enter_00", "Download_Leave_00")
    bench.exits(script, 21)

    with pytest.raises(RetryLater):
        bench.installer.stage(bench.order())
    bench.installer.stage(bench.order())

    called = bench.calls()
    assert called.count(script) == 2
    assert called.count("Download") == 1
    bench.installer.activate(bench.order().digest)


def test_what_waits_for_a_script_can_still_be_withdrawn(bench: Device) -> None:
    bench.exits("ArtifactInstall_Enter_00", 21)
    order = bench.order(scripts=("ArtifactInstall_Enter_00",))
    bench.installer.stage(order)
    with pytest.raises(RetryLater):
        bench.installer.activate(order.digest)
    bench.calls()

    bench.installer.clean_up()

    assert bench.calls() == ["Cleanup"]
    assert bench.installer.running() is None


def test_a_script_after_the_switch_that_says_later_is_waited_for(bench: Device) -> None:
    bench.exits("ArtifactInstall_Leave_00", 21)
    order = bench.order(scripts=("ArtifactInstall_Leave_00",))

    bench.activate(order)

    assert bench.calls().count("ArtifactInstall_Leave_00") == 2


def test_a_script_that_says_later_for_too_long_has_failed(bench: Device) -> None:
    bench.options |= {"script_retry_s": 10.0, "script_retry_max_s": 5.0}
    bench.exits("ArtifactCommit_Enter_00", 21)
    order = bench.order(scripts=("ArtifactCommit_Enter_00",))
    bench.activate(order)

    with pytest.raises(InstallerError, match="asked too long") as failed:
        bench.installer.check_trial(order.digest)
    assert failed.value.reason == Reason.BUSY


@pytest.mark.parametrize(
    ("script", "call"),
    [
        ("ArtifactInstall_Enter_00", "activate"),
        ("ArtifactInstall_Leave_00", "activate"),
        ("ArtifactReboot_Enter_00", "activate"),
        ("ArtifactReboot_Leave_00", "check_trial"),
        ("ArtifactCommit_Enter_00", "check_trial"),
    ],
)
def test_a_script_that_fails_where_that_counts_leads_back(
    bench: Device, script: str, call: str
) -> None:
    bench.answer("NeedsArtifactReboot", "Yes")
    bench.exits(script, 1)
    order = bench.order(scripts=tuple(ALL_SCRIPTS))
    bench.installer.stage(order)

    with pytest.raises(InstallerError, match="script says 1"):
        bench.installer.activate(order.digest)
        bench.installer.check_trial(order.digest)
    called = bench.calls()
    assert called[-1] == re.sub("Enter|Leave", "Error", script)
    assert bench.installer.roll_back(order.digest) is None
    assert bench.calls()[-1] == "Cleanup"


@pytest.mark.parametrize(
    "script", ["ArtifactRollback_Enter_00", "ArtifactRollback_Leave_00", "ArtifactFailure_Enter_00"]
)
def test_a_script_whose_error_is_ignored_lets_the_way_back_go_on_and_what_runs_is_doubtful(
    bench: Device, script: str
) -> None:
    old = bench.order("1")
    bench.install(old)
    new = bench.order("2", scripts=tuple(ALL_SCRIPTS))
    bench.activate(new)
    bench.exits(script, 1)

    assert bench.installer.roll_back(new.digest) == old.digest

    assert bench.calls()[-1] == "Cleanup"
    with pytest.raises(InstallerError, match="script says 1") as doubtful:
        bench.installer.check_trial(old.digest)
    assert doubtful.value.reason == Reason.INCONSISTENT
    bench.install(bench.order("3"))
    bench.installer.check_trial(bench.order("3").digest)


def test_a_commit_that_is_refused_at_first_is_asked_for_again(bench: Device) -> None:
    bench.fail("ArtifactCommit", 2)
    order = bench.order()
    bench.install(order)

    assert bench.calls()[-4:] == ["ArtifactCommit"] * 3 + ["Cleanup"]
    bench.installer.check_trial(order.digest)


def test_a_commit_that_is_refused_for_good_leaves_the_release_and_a_person_has_to_look(
    bench: Device,
) -> None:
    bench.fail("ArtifactCommit")
    order = bench.order(scripts=("ArtifactCommit_Error_00",))
    bench.activate(order)
    bench.installer.check_trial(order.digest)

    with pytest.raises(InstallerError) as refused:
        bench.installer.commit(order.digest)
    assert refused.value.reason == Reason.INCONSISTENT
    bench.installer.commit(order.digest)

    assert bench.installer.running() == order.digest
    assert bench.calls()[-3:] == ["ArtifactCommit", "ArtifactCommit_Error_00", "Cleanup"]


# Crashes.


def test_an_install_that_was_cut_off_is_taken_back_and_made_once_more(bench: Device) -> None:
    order = bench.order()
    bench.installer.stage(order)
    bench.fail("ArtifactInstall", 1)
    with pytest.raises(InstallerError):
        bench.installer.activate(order.digest)
    bench.calls()

    bench.installer.activate(order.digest)

    assert bench.calls() == ["ArtifactRollback", "ArtifactInstall", "NeedsArtifactReboot"]


def test_an_install_that_was_cut_off_is_not_repeated_by_a_module_that_cannot_go_back(
    bench: Device,
) -> None:
    bench.answer("SupportsRollback", "")
    order = bench.order()
    bench.installer.stage(order)
    bench.fail("ArtifactInstall", 1)
    with pytest.raises(InstallerError):
        bench.installer.activate(order.digest)
    bench.calls()

    with pytest.raises(InstallerError) as refused:
        bench.installer.activate(order.digest)

    assert refused.value.reason == Reason.INTERRUPTED
    assert bench.calls() == []


def test_a_restart_in_which_the_power_went_counts_as_one(bench: Device) -> None:
    bench.answer("NeedsArtifactReboot", "Yes")
    bench.fail("ArtifactReboot", 1)
    order = bench.order()
    bench.installer.stage(order)
    with pytest.raises(InstallerError):
        bench.installer.activate(order.digest)
    bench.calls()
    bench.reboot("second")

    bench.installer.activate(order.digest)
    bench.installer.check_trial(order.digest)

    assert bench.calls() == ["ArtifactVerifyReboot"]
    assert bench.installer.running() == order.digest


def test_a_call_that_outlived_the_agent_is_ended_before_the_next_one(bench: Device) -> None:
    order = bench.order()
    bench.installer.stage(order)
    bench.fail("ArtifactInstall", 1)
    with pytest.raises(InstallerError):
        bench.installer.activate(order.digest)
    left = subprocess.Popen(["sleep", "600"], cwd=bench.tree / "tmp", start_new_session=True)

    bench.installer.roll_back(order.digest)

    assert left.wait(30) == -9


def test_what_a_module_left_running_goes_on_when_nothing_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    act = f"""
    if [ "$1" = ArtifactInstall ]; then sleep 600 >/dev/null 2>&1 & echo $! > {pid}; fi"""
    bench = Device(tmp_path, monkeypatch, act)
    bench.install(bench.order())

    os.kill(int(pid.read_text()), 9)  # raises if it does not run


def test_a_ledger_that_cannot_be_understood_stops_every_change(bench: Device) -> None:
    bench.install(bench.order())
    (bench.folder / "install/lamp/state.json").write_text("{")

    assert bench.installer.running() is None
    with pytest.raises(InstallerError, match="cannot be understood"):
        bench.installer.stage(bench.order("2"))


@pytest.mark.parametrize(
    "parameters",
    [
        {"payload_type": "../trace"},
        {"payload_type": ""},
        {"files": '["../a", "b", "c"]'},
        {"files": '["a"]'},
        {"files": "[" * 3000},
        {"files": '["a", "a", "b"]'},
        {"files": '["a\\nstreams/b", "b", "c"]'},
        {"scripts": '["run"]'},
        {"artifact_name": "two\nlines"},
    ],
)
def test_parameters_that_no_module_can_be_given_are_refused(
    bench: Device, parameters: dict[str, str]
) -> None:
    order = bench.order()
    manifest = order.manifest.model_copy(
        update={"parameters": {**order.manifest.parameters, **parameters}}
    )

    with pytest.raises(InstallerError) as refused:
        bench.installer.stage(
            Order(manifest, manifest.digest(), order.artifacts, order.unpacked_bytes_max)
        )

    assert refused.value.reason == Reason.MANIFEST_INVALID
    assert bench.calls() == []


@pytest.mark.parametrize(
    "options", [{"modules": "/x"}, {"timeout_s": 0}, {"script_retry_s": "60"}, {"timeout_s": True}]
)
def test_options_that_are_none_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InstallerError):
        MenderModuleInstaller("lamp", tmp_path, options)


def test_progress_tells_each_step_and_what_the_module_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Device(tmp_path, monkeypatch, '[ "$1" = ArtifactInstall ] && echo "writing 10 %"')
    bench.install(bench.order(scripts=("ArtifactInstall_Enter_00",)))

    assert bench.progress == [
        "Download",
        "ArtifactInstall_Enter_00",
        "ArtifactInstall",
        "writing 10 %",
        "ArtifactCommit",
        "Cleanup",
    ]


@pytest.mark.parametrize("answer", ["Automatic", "Yes"])
@pytest.mark.parametrize("has_fallen_back", [False, True])
def test_a_start_after_the_restart_was_verified_has_to_be_verified_again(
    bench: Device, answer: str, *, has_fallen_back: bool
) -> None:
    old, new = bench.order("1"), bench.order("2")
    bench.install(old)
    bench.answer("NeedsArtifactReboot", answer)
    bench.activate(new)
    bench.reboot("second")
    bench.installer.check_trial(new.digest)
    assert bench.installer.running() == new.digest

    bench.reboot("the power failed")
    if has_fallen_back:
        bench.fail("ArtifactVerifyReboot")

    assert bench.installer.running() is None
    if has_fallen_back:
        with pytest.raises(InstallerError) as fell_back:
            bench.installer.check_trial(new.digest)
        assert fell_back.value.reason == Reason.FELL_BACK
    else:
        bench.installer.check_trial(new.digest)
        assert bench.installer.running() == new.digest
        bench.installer.commit(new.digest)
        assert bench.installer.running() == new.digest
