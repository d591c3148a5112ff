import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path

from firmware_hooks import contract
from firmware_hooks.conformance import InstallerConformance
from firmware_hooks.program import LATER_CODES, Phase
from sync.stages import Reason

DOCS = Path(__file__).parents[2] / "docs"
CONTRACT = (DOCS / "reference" / "installer-contract.md").read_text()
INSTALLERS = (DOCS / "reference" / "installers.md").read_text()
HOWTO = (DOCS / "howto" / "write-an-installer.md").read_text()
FIRMWARE = Path(contract.__file__).parent


def section(text: str, title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no heading {title!r}"
    return found[1]


def rows(text: str) -> list[str]:
    return re.findall(r"^\| \[?`([A-Za-z_.-]+)", text, re.MULTILINE)


def test_the_contract_in_prose_has_the_calls_of_the_contract_in_code_in_their_order() -> None:
    calls = [name for name, call in vars(contract.Installer).items() if inspect.isfunction(call)]
    ours = [name for name in calls if not name.startswith("_") or name == "__init__"]
    assert [name for name in rows(section(CONTRACT, "Calls")) if name in ours] == ours
    assert set(rows(section(CONTRACT, "Calls"))) == set(ours)


def test_the_contract_in_prose_has_every_further_protocol_and_its_calls() -> None:
    protocols = {
        name: kind
        for name, kind in vars(contract).items()
        if getattr(kind, "_is_protocol", False) and kind.__module__ == contract.__name__
    }
    del protocols["Installer"]
    text = section(CONTRACT, "What it may have beside")
    assert set(rows(text)) == set(protocols)
    for kind in protocols.values():
        named = [*vars(kind), *getattr(kind, "__annotations__", {})]
        for name in named:
            assert name.startswith("_") or f"`{name}`" in text, f"{kind.__name__}.{name}"


def test_every_reason_that_an_installer_here_gives_is_in_the_contract_and_exists() -> None:
    documented = set(rows(section(CONTRACT, "What it says when it fails")))
    given = {
        Reason[name].value
        for path in FIRMWARE.glob("*.py")
        for name in re.findall(r"\bReason\.([A-Z_]+)", path.read_text())
    }
    assert documented <= {reason.value for reason in Reason}
    assert given - {Reason.OK.value} <= documented


def test_every_installer_is_documented_with_its_options_and_none_that_does_not_exist() -> None:
    found = {point.name for point in entry_points(group=contract.ENTRY_POINTS)}
    assert set(re.findall(r"^## `([a-z-]+)`$", INSTALLERS, re.MULTILINE)) == found
    assert set(rows(INSTALLERS.partition("\n## ")[0])) == found
    for point in entry_points(group=contract.ENTRY_POINTS):
        source = FIRMWARE.joinpath(f"{point.module.rpartition('.')[2]}.py").read_text()
        text = section(INSTALLERS, f"`{point.name}`")
        tables = re.split(r"^\| (?=option |parameter )", text, flags=re.MULTILINE)
        said = [name for table in tables if table.startswith("option ") for name in rows(table)]
        assert [name for name in said if "_NAME" not in name and f'"{name}"' not in source] == []
        called = re.search(r'known\(\s*"' + point.name + r'", options, \(([^)]*)\)', source)
        if called is not None:
            assert set(re.findall(r'"([a-z_]+)"', called[1])) <= set(said)


def test_phases_variables_and_exit_codes_of_hook_programs_are_documented_as_they_are() -> None:
    text = section(CONTRACT, "Hook programs")
    source = FIRMWARE.joinpath("program.py").read_text()
    assert [name for name in rows(text) if not name.startswith("FIELDFARE")] == list(Phase)
    named = set(re.findall(r'"(FIELDFARE_[A-Z_]+)"', source))
    assert {name for name in rows(text) if name.startswith("FIELDFARE")} == named | {
        "FIELDFARE_PARAMETER_"
    }
    codes = re.search(r"^\| ([0-9 or]+) \| not now", text, re.MULTILINE)
    assert codes is not None
    assert tuple(map(int, codes[1].split(" or "))) == LATER_CODES


def test_the_howto_names_what_a_subclass_of_the_shipped_tests_may_say() -> None:
    names = (
        "make_installer",
        "make_order",
        "prepare_device",
        "clear_device",
        "reboot",
        "fall_back",
    )
    for name in (*names, "assert_runs"):
        assert hasattr(InstallerConformance, name)
        assert f"{name}(" in HOWTO
    assert hasattr(InstallerConformance, "kill_stride")
    assert "`kill_stride" in HOWTO
