"""Plugins written to the contract of thin-edge.io, in the ways in which they differ."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError, Options, Order, RetryLater
from firmware_hooks.sm_plugin import SmPluginInstaller
from sync.stages import Reason
from tests.firmware_hooks.plugins import calls, make_plugin, modules
from tests.firmware_hooks.releases import Parameters, order_of, put


class Device:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_plugin(folder, "jar")

    def installer(self, **options: str | float) -> SmPluginInstaller:
        given: Options = {"plugins": f"{self.folder}/plugins", **options}
        return SmPluginInstaller("lamp", self.folder / "install", given)

    def order(
        self,
        version: str,
        wanted: str,
        files: Mapping[str, bytes] | None = None,
        parameters: Parameters | None = None,
    ) -> Order:
        """Return an order for a list; spaces in it stand for tabs."""
        listed = "".join(line.strip().replace(" ", "\t") + "\n" for line in wanted.split(";"))
        return order_of(
            self.folder,
            version,
            {"modules.tsv": listed.encode(), **(files or {})},
            installer="sm-plugin",
            parameters={"plugin": "jar"} if parameters is None else parameters,
        )

    def start(self, order: Order) -> None:
        self.installer().stage(order)
        self.installer().activate(order.digest)

    def has(self) -> dict[str, str]:
        return modules(self.folder)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_list_is_handed_over_at_once_between_prepare_and_finalize(device: Device) -> None:
    put(
        device.installer(),
        device.order("1", "install a 1; install b; install c 3 c.jar", {"c.jar": b"content"}),
    )

    assert calls(device.folder) == ["prepare", "update-list", "finalize"]
    assert device.has() == {"a": "1", "b": "newest", "c": "3\ncontent"}


def test_a_plugin_without_update_list_gets_one_module_after_the_other(device: Device) -> None:
    make_plugin(device.folder, "jar", has_list=False)
    put(device.installer(), device.order("0", "install old 1"))
    calls(device.folder)
    order = device.order("1", "remove old 1; install a 1; install c 3 c.jar", {"c.jar": b"x"})

    put(device.installer(), order)

    file = device.installer().folder(order.digest) / "artifacts/c.jar"
    assert calls(device.folder) == [
        "prepare",
        "update-list",
        "remove old --module-version 1",
        "install a --module-version 1",
        f"install c --module-version 3 --file {file}",
        "finalize",
    ]
    assert device.has() == {"a": "1", "c": "3\nx"}


@pytest.mark.parametrize("has_list", [True, False])
def test_rolling_back_restores_each_module_to_the_version_it_had(
    has_list: bool, device: Device
) -> None:
    make_plugin(device.folder, "jar", has_list=has_list)
    put(
        device.installer(),
        device.order(
            "0", "install mine 1 mine.jar; install gone 7; install other 5", {"mine.jar": b"one"}
        ),
    )
    new = device.order(
        "1", "install mine 2 mine.jar; remove gone; install fresh 1", {"mine.jar": b"two"}
    )
    device.start(new)
    assert device.has() == {"mine": "2\ntwo", "fresh": "1", "other": "5"}

    device.installer().roll_back(new.digest)

    assert device.has() == {"mine": "1\none", "gone": "7", "other": "5"}


def test_what_was_there_before_the_first_release_comes_back(device: Device) -> None:
    (device.folder / "modules").mkdir()
    (device.folder / "modules/a").write_text("0.9\n")
    order = device.order("1", "install a 1; install b 1")
    device.start(order)

    assert device.installer().roll_back(order.digest) is None

    assert device.has() == {"a": "0.9"}


BESIDE = """
case "$1" in
install) set -- install "$2@$4" "$3" "$4" ;;
remove) set -- remove "$2@$4" ;;
list) for m in "$modules"/*; do [ ! -f "$m" ] || { m="${m##*/}"; printf '%s\\t%s\\n' \\
    "${m%%@*}" "${m#*@}"; }; done; exit 0 ;;
esac
"""


@pytest.mark.parametrize("wanted", ["install a 2", "remove a 1; install a 2"])
def test_a_plugin_that_keeps_versions_beside_each_other_is_brought_back_too(
    wanted: str, device: Device
) -> None:
    make_plugin(device.folder, "jar", has_list=False, before=BESIDE)
    old = put(device.installer(), device.order("1", "install a 1"))
    assert device.has() == {"a@1": "1"}
    new = device.order("2", wanted)
    device.start(new)
    assert "a@2" in device.has()

    assert device.installer().roll_back(new.digest) == old

    assert device.has() == {"a@1": "1"}


# ------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("phase", ["prepare", "update-list", "finalize"])
@pytest.mark.parametrize("code", [2, 4, 77])
def test_a_failure_in_any_phase_is_the_installs_and_the_way_back_is_open(
    phase: str, code: int, device: Device
) -> None:
    old = put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2")
    device.installer().stage(new)
    make_plugin(
        device.folder, "jar", before=f'[ "$1" != {phase} ] || {{ echo no >&2; exit {code}; }}'
    )
    calls(device.folder)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert failed.value.reason == Reason.INSTALLER_FAILED
    assert failed.value.detail == f"jar {phase} ended with {code}: no"
    order = ["prepare", "update-list", "finalize"]
    made = order[: order.index(phase) + 1] if phase != "update-list" else order
    assert calls(device.folder) == made
    make_plugin(device.folder, "jar")
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"a": "1"}


def test_one_module_of_several_that_fails_ends_the_install_and_all_come_back(
    device: Device,
) -> None:
    make_plugin(
        device.folder,
        "jar",
        has_list=False,
        before='[ "$1 ${2-}" != "install bad" ] || exit 2',
    )
    old = put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2; install bad 1; install c 1")
    device.installer().stage(new)
    calls(device.folder)

    with pytest.raises(InstallerError):
        device.installer().activate(new.digest)

    assert calls(device.folder)[-1] == "finalize"
    assert device.has() == {"a": "2"}
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"a": "1"}


@pytest.mark.parametrize("phase", ["prepare", "update-list"])
def test_a_plugin_that_says_retry_later_is_called_again(phase: str, device: Device) -> None:
    old = put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2")
    device.installer().stage(new)
    make_plugin(
        device.folder, "jar", before=f'[ "$1" != {phase} ] || {{ echo locked >&2; exit 3; }}'
    )

    with pytest.raises(RetryLater) as later:
        device.installer().activate(new.digest)

    assert "locked" in later.value.detail
    assert device.installer().running() == old
    make_plugin(device.folder, "jar")
    device.installer().activate(new.digest)
    assert device.has() == {"a": "2"}


def test_a_plugin_that_says_retry_later_on_the_way_back_is_called_again(device: Device) -> None:
    old = put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2")
    device.start(new)
    make_plugin(device.folder, "jar", before='[ "$1" != prepare ] || { echo locked >&2; exit 3; }')

    for _ in range(2):
        with pytest.raises(RetryLater, match="locked"):
            device.installer().roll_back(new.digest)

    make_plugin(device.folder, "jar")
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"a": "1"}


def test_retry_later_in_the_middle_of_the_work_is_a_failure(device: Device) -> None:
    make_plugin(
        device.folder, "jar", has_list=False, before='[ "$1 ${2-}" != "install b" ] || exit 3'
    )
    old = put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2; install b 1")
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert not isinstance(failed.value, RetryLater)
    assert "it had begun" in failed.value.detail
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == {"a": "1"}


@pytest.mark.parametrize(
    "lie",
    [
        'if [ "$1" = update-list ]; then cat >/dev/null; exit 0; fi',
        'if [ "$1" = list ]; then printf "a\\t1\\n"; exit 0; fi',
    ],
    ids=["did nothing", "lists what is not so"],
)
def test_a_plugin_that_claims_what_its_list_does_not_show_is_not_believed(
    lie: str, device: Device
) -> None:
    put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2")
    device.installer().stage(new)
    make_plugin(device.folder, "jar", before=lie)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert "the plugin lists a as ['1']" in failed.value.detail


def test_a_module_that_somebody_changed_ends_the_trial(device: Device) -> None:
    order = device.order("1", "install a 1; remove b")
    device.start(order)
    device.installer().check_trial(order.digest)

    (device.folder / "modules/a").write_text("9\n")
    with pytest.raises(InstallerError):
        device.installer().check_trial(order.digest)
    (device.folder / "modules/a").write_text("1\n")
    (device.folder / "modules/b").write_text("1\n")
    with pytest.raises(InstallerError):
        device.installer().check_trial(order.digest)


def test_a_plugin_that_hangs_is_ended_and_the_way_back_is_open(device: Device) -> None:
    old = put(device.installer(), device.order("1", "install a 1"))
    new = device.order("2", "install a 2")
    device.installer().stage(new)
    make_plugin(device.folder, "jar", before='[ "$1" != update-list ] || sleep 600')

    with pytest.raises(InstallerError) as failed:
        device.installer(timeout_s=0.5).activate(new.digest)

    assert failed.value.reason == Reason.HOOK_TIMED_OUT
    make_plugin(device.folder, "jar")
    assert device.installer().roll_back(new.digest) == old


def test_a_plugin_that_floods_its_output_changes_nothing(device: Device) -> None:
    make_plugin(
        device.folder, "jar", before='[ "$1" = list ] || head -c 30000000 /dev/zero | tr "\\0" x'
    )

    put(device.installer(), device.order("1", "install a 1"))

    assert device.has() == {"a": "1"}


def test_an_install_that_never_ended_is_left_behind_by_the_next(device: Device) -> None:
    put(device.installer(), device.order("1", "install a 1"))
    second = device.order("2", "install a 2; install b 2")
    device.start(second)
    make_plugin(device.folder, "jar", before='[ "$1" != prepare ] || exit 2')
    with pytest.raises(InstallerError) as stuck:
        device.installer().roll_back(second.digest)
    assert stuck.value.reason == Reason.ROLLBACK_FAILED
    assert device.installer().running() is None

    make_plugin(device.folder, "jar")
    third = device.order("3", "install a 3")
    device.start(third)
    assert device.has() == {"a": "3"}
    device.installer().roll_back(third.digest)

    assert device.has() == {"a": "1"}


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "instal a 1",
        "install",
        "install a 1 missing.jar",
        "remove a 1 modules.tsv",
        "install a 1; install a 1",
        "install a 1 modules.tsv more",
        "install --help",
        "install a --file",
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(wanted: str, device: Device) -> None:
    with pytest.raises(InstallerError) as refused:
        device.installer().stage(device.order("1", wanted))

    assert refused.value.reason == Reason.MANIFEST_INVALID
    assert "modules.tsv, line" in refused.value.detail
    assert calls(device.folder) == []
    assert not list((device.folder / "install").rglob("modules.tsv"))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, Reason.MANIFEST_INVALID),
        ({"plugin": "../jar"}, Reason.MANIFEST_INVALID),
        ({"plugin": 7}, Reason.MANIFEST_INVALID),
        ({"plugin": "jar", "colour": "red"}, Reason.MANIFEST_INVALID),
        ({"plugin": "apt"}, Reason.REQUIREMENT_UNMET),
        ({"plugin": "plain"}, Reason.REQUIREMENT_UNMET),
        ({"plugin": "broken"}, Reason.REQUIREMENT_UNMET),
    ],
)
def test_a_plugin_that_is_not_there_or_cannot_list_is_said_before_anything_is_touched(
    parameters: dict[str, str | int], reason: Reason, device: Device
) -> None:
    (device.folder / "plugins/plain").write_text("no program")
    make_plugin(device.folder, "broken", before="exit 2")

    with pytest.raises(InstallerError) as refused:
        device.installer().stage(device.order("1", "install a 1", parameters=dict(parameters)))

    assert refused.value.reason == reason
    assert device.has() == {}


def test_a_release_without_a_list_is_refused(device: Device) -> None:
    order = order_of(
        device.folder, "1", {"a.jar": b"x"}, installer="sm-plugin", parameters={"plugin": "jar"}
    )
    with pytest.raises(InstallerError) as refused:
        device.installer().stage(order)
    assert "modules.tsv" in refused.value.detail
