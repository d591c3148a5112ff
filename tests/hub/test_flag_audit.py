"""What is found wrong with flags in code, and that an experiment can be deleted without a trace."""

import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from hub.cli import main
from hub.cli.exits import Exit
from hub.flag_audit import findings, scan
from tests.hub.cli.canned_hub import canned_hub
from tests.hub.flagged import METADATA, definition

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "experiment"
TODAY = date(2026, 11, 1)

EXPERIMENT = """
from a import Base

class Fast(Base):
    def go(self):
        return Fast.speed

EXPERIMENTS = {"pump-fast": Fast}

def way(flags):
    return next((EXPERIMENTS[key] for key in EXPERIMENTS if flags.is_on(key)), Base)
"""

READ = 'def f(client):\n    return client.get_boolean_value("pump-fast", False)\n'


def ledger(**metadata: Any) -> dict[str, str]:
    changed = {key: value for key, value in (METADATA | metadata).items() if value is not None}
    return {"pump-fast": json.dumps(definition(metadata=changed))}


def found(definitions: dict[str, str], **sources: str) -> list[str]:
    code = scan({f"{name}.py": text for name, text in sources.items()})
    return [str(each) for each in findings(code, definitions, TODAY)]


def test_a_flag_that_is_read_once_and_an_experiment_of_one_class_and_one_entry_are_fine() -> None:
    assert found(ledger(), a=READ) == []
    assert found(ledger(strategy="e:Fast"), e=EXPERIMENT) == []


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"owner": None}, "metadata lacks owner"),
        ({"cleanup": None}, "metadata lacks cleanup"),
        ({"expires": None}, "metadata lacks expires"),
        ({"guard": None}, "has no metadata.guard"),
        ({"guard": " "}, "has no metadata.guard"),
        ({"expires": "2026-10-31"}, "expired on 2026-10-31"),
        ({"hash": "flagd-fractional-v1"}, "metadata.hash"),
    ],
)
def test_a_flag_without_owner_ticket_end_or_guard_is_wrong(
    metadata: dict[str, Any], words: str
) -> None:
    (only,) = found(ledger(**metadata), a=READ)
    assert words in only


def test_the_last_day_of_a_flag_is_still_within_it() -> None:
    assert found(ledger(expires=TODAY.isoformat()), a=READ) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (READ + READ, "a.py:4: pump-fast: is read in a second place; the first is a.py:2"),
        (READ + 'X = ["pump-fast"]\n', "a.py:3: pump-fast: is named here as well"),
        ("", "pump-fast: is defined in the ledger, and read nowhere"),
        (READ + 'c.is_on("other")\n', "a.py:3: other: is read, and not defined in the ledger"),
        (READ + "c.is_on(name)\n", "a.py:3: reads a flag whose name cannot be told"),
        (READ + "c.is_on(f'{name}')\n", "a.py:3: reads a flag whose name cannot be told"),
    ],
)
def test_a_flag_is_read_in_exactly_one_place(source: str, words: str) -> None:
    (only,) = found(ledger(), a=source)
    assert words in only


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('{"pump-fast": Fast}', "{}", "read nowhere"),
        ('{"pump-fast": Fast}', '{"pump-fast": Base}', "is registered with Base"),
        ('{"pump-fast": Fast}', '{"pump-fast": Fast()}', "a flag's name and a class"),
        ("class Fast(Base)", "class Slow(Base)", "needs exactly one class Fast"),
        ("def way(flags):", "def way(flags, other=Fast):", "Fast is used here as well"),
        ("from a import Base", "from a import Base\nclass Fast: pass", "exactly one class Fast"),
        ("flags.is_on(key)", 'flags.is_on("pump-fast")', "is read in a second place"),
    ],
)
def test_what_would_stay_behind_when_an_experiment_is_deleted_is_found(
    before: str, after: str, words: str
) -> None:
    assert before in EXPERIMENT
    told = found(ledger(strategy="e:Fast"), e=EXPERIMENT.replace(before, after))
    assert any(words in each for each in told), told


def test_a_class_used_in_another_module_would_stay_behind() -> None:
    told = found(ledger(strategy="e:Fast"), e=EXPERIMENT, f="from e import Fast\nFast()\n")
    assert told == ["f.py:2: pump-fast: Fast is used here as well, and would stay behind"]


def test_an_experiment_whose_class_nobody_named_in_the_ledger_is_found() -> None:
    (only,) = found(ledger(), e=EXPERIMENT)
    assert "metadata.strategy must name it" in only


def test_a_constant_counts_as_the_name_that_it_stands_for() -> None:
    read = 'KEY: Final = "pump-fast"\nc.is_on(KEY, default=True)\n'
    assert found(ledger(), a=read) == []
    (only,) = found(ledger(), a=read + "d.is_on(KEY, default=True)\n")
    assert "second place" in only


def test_tests_and_docstrings_may_name_flags() -> None:
    assert found(ledger(), a=f'"""pump-fast"""\n{READ}', test_a=READ, conftest=READ) == []


def test_a_file_that_is_no_python_is_named() -> None:
    (only,) = found(ledger(), a=READ, b="def (")
    assert only.startswith("b.py:1: is no Python")


def test_the_agents_own_features_are_read_in_exactly_one_place_each() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for path in (ROOT / "agent").rglob("*.py")
    }
    code = scan(sources)
    assert {key for key, _ in code.reads} == {"agent.delta", "agent.neighbours"}
    assert [str(each) for each in findings(code, {}, TODAY) if each.flag] == []


def test_the_example_is_fine_and_deleting_class_and_entry_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "experiment"
    shutil.copytree(EXAMPLE, folder)
    assert main(["flags", "audit", str(folder)]) == 0
    assert "1 flag, nothing wrong" in capsys.readouterr().out
    source = folder / "pump.py"
    text = source.read_text()
    begin, end = text.index("class Pulsed"), text.index("EXPERIMENTS: Final")
    text = text[:begin] + text[end:]
    text = text.replace('    "pump-pulsed": Pulsed,\n', "")
    source.write_text(text)
    # The ledger still has it: that is found.
    assert main(["flags", "audit", str(folder)]) == Exit.FLAGS
    assert "pump-pulsed: is defined in the ledger, and read nowhere" in capsys.readouterr().out
    (folder / "flags.json").write_text('{"flags": {}}')
    assert main(["flags", "audit", str(folder)]) == 0
    left = "".join(path.read_text() for path in folder.glob("*.py"))
    assert "pulsed" not in left.lower()
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9,PLW,ERA,SIM"]
    subprocess.run([*lint, str(folder)], check=True)
    run = "from pump import way_to_run\nprint(way_to_run(lambda flag: True).seconds_on(0.8))"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=folder, check=True, capture_output=True, text=True
    )
    assert done.stdout == "48.0\n"


@pytest.mark.parametrize(("is_on", "seconds"), [("True", "72.0"), ("False", "48.0")])
def test_the_example_runs_either_way(is_on: str, seconds: str) -> None:
    run = f"from pump import way_to_run\nprint(way_to_run(lambda flag: {is_on}).seconds_on(0.8))"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=EXAMPLE, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(seconds)


def test_the_hub_tells_who_still_reads_a_flag_and_what_is_safe_to_delete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(READ)
    with canned_hub() as hub:
        monkeypatch.setenv("FIELDFARE_HUB_URL", hub.url)
        stands = [
            {"flag": flag, "definition": definition(metadata=METADATA | {"expires": "2099-01-01"})}
            for flag in ("pump-fast", "old-one")
        ]
        hub.answer("GET", "/flags", {"items": stands})
        reading = [{"device": "d1", "reader": "app@1.4.0"}]
        tail = {"is_safe_to_delete": False, "reading_count": 1, "reading": reading}
        hub.answer("GET", "/flags/pump-fast", tail)
        none = {"is_safe_to_delete": True, "reading_count": 0, "reading": []}
        hub.answer("GET", "/flags/old-one", none)
        code = main(["flags", "audit", str(tmp_path), "--live"])
    out = capsys.readouterr().out
    assert code == Exit.FLAGS
    assert "old-one: is defined in the ledger, and read nowhere: remove it" in out
    assert "pump-fast: still read by 1 device: d1 (app@1.4.0)" in out
    assert "old-one: safe to delete" in out


def test_without_a_ledger_and_a_hub_there_is_nothing_to_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text(READ)
    assert main(["flags", "audit", str(tmp_path)]) == Exit.USAGE
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    assert main(["flags", "audit", str(tmp_path), "--ledger", str(bad)]) == Exit.FILE
    assert "is no file of flags" in capsys.readouterr().err
