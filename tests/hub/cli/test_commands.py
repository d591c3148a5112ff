import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli import main
from hub.cli.exits import Exit
from hub.cli.wish import parse_value
from tests.hub.cli.canned_hub import CannedHub, canned_hub
from tests.hub.cli.told import ID, device_json, fleet_json, report_json
from tests.hub.outcomes.courses import finished

TREE = {
    "release.toml": 'component = "lamp"\nversion = "1.0.0"\nowner = "us"\noutcomes = ["light"]\n'
    '[health]\ncommand = ["{python}"]\n',
    "lamp.py": "print('on')\n",
}


TERMS = {
    "device": "d4",
    "ordered_at_ms": 1_800_000_000_000,
    "now": True,
    "windows": ["Sat 02:00-04:00"],
    "budget_s": 3600,
    "overdue": "go",
    "who": "operator",
    "why": "a leak",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedHub]:
    with canned_hub() as server:
        monkeypatch.setenv("FIELDFARE_HUB_URL", server.url)
        server.answer("GET", "/fleet", fleet_json())
        server.answer("GET", "/devices/d4", device_json())
        server.answer("GET", f"/deployments/{ID}", report_json())
        server.answer("DELETE", f"/deployments/{ID}", report_json() | {"cancelled_at_ms": 1})
        request = {
            key: value for key, value in report_json().items() if key not in ("devices", "funnel")
        }
        server.answer("GET", "/deployments", {"items": [request]})
        server.answer("POST", "/deployments", {"deployment": ID, "targeted": ["d1"]}, 202)
        listed = {"device": "d4", "online": None, "first_seen_at_ms": 1, "last_uplink_at_ms": None}
        server.answer("GET", "/devices?limit=500", {"items": [listed], "next": None})
        release = {
            "release": "lamp@1.0.0",
            "component": "lamp",
            "version": "1.0.0",
            "digest": "ab" * 32,
            "created_at_ms": 1_800_000_000_000,
            "manifest": {"artifacts": [{"length_bytes": 2_500_000}]},
        }
        server.answer("DELETE", "/devices/d4", {"device": "d4", "forgotten": True})
        server.answer("GET", "/releases", {"items": [release]})
        server.answer("POST", "/releases", release, 201)
        server.answer("PUT", f"/deployments/{ID}/terms", {"deployment": ID, "terms": [TERMS]})
        server.answer("PUT", "/devices/d4/settings/mode", {})
        server.answer("PUT", "/groups/all/settings/mode", {})
        server.answer("DELETE", "/groups/all/settings/mode", {})
        yield server


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    for name, text in TREE.items():
        (folder / name).write_text(text)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    told = capsys.readouterr()
    return code, told.out, told.err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = run(capsys, *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_status_answers_the_first_question_in_its_first_line(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert out.splitlines()[0] == (
        "3 of 6 devices active in the last 7 d run greenhouse 1.1.0 "
        "(proven by a passed health check)."
    )


def test_status_tells_silent_from_unreachable_and_shows_intervals_and_the_funnel(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "status")
    assert "silent 1: d6" in out
    assert "unreachable 1: d5" in out
    assert "rolled back 1: d4" in out
    assert "12.9\u201313.1 s" in out
    assert "not reached" in out
    assert "3 of 6" in out
    assert "(no proof)" in out
    assert "6 registered, 6 active in the last 7 d, 5 connected now" in out


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("devices",),
        ("device", "d4"),
        ("release", "list"),
        ("deploy", "lamp@1.0.0", "--group", "all"),
        ("deployment", "list"),
        ("deployment", "show", ID),
        ("deployment", "cancel", ID),
        ("set", "d4", "mode", "eco"),
        ("unset", "--group", "all", "mode"),
        ("forget", "d4"),
        ("settings",),
        ("completion", "bash"),
    ],
    ids=" ".join,
)
def test_every_command_speaks_to_people_and_as_json(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert out.strip()
    assert run_json(capsys, *words)


def test_json_holds_all_that_the_hub_says(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_json(capsys, "status") == fleet_json()
    assert run_json(capsys, "device", "d4") == device_json()
    assert run_json(capsys, "deployment", "show", ID) == report_json()


def test_what_a_device_says_is_shown_as_text_whatever_it_looks_like(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "device", "d4")
    assert "[red]rubbish[/red]" in out
    assert "conflict: neither side knew of the other's value" in out
    assert "no reading" not in out


HARMFUL = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\r\nfieldfare: all is well\x7f\ud800"
"""Sets a terminal's title, clears it, colours it, turns the line around, forges another line."""

FREE_TEXTS = {"reason", "detail", "sentence", "code", "where", "local", "desired", "effective"}


def _poisoned(answer: Any, name: str = "") -> Any:
    """Return an answer of the hub with that in every text that people or devices chose."""
    match answer:
        case str() if name in FREE_TEXTS:
            return answer + HARMFUL
        case list():
            return [_poisoned(each, name) for each in answer]
        case dict() if name == "facts":
            return {key + HARMFUL: HARMFUL for key in answer} | {"nested": [HARMFUL]}
        case dict():
            return {key: _poisoned(value, key) for key, value in answer.items()}
        case _:
            return answer


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("devices",),
        ("device", "d4"),
        ("deployment", "list"),
        ("deployment", "show", ID),
        ("deployment", "show", "dunknown"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_nothing_that_a_device_says_steers_the_terminal(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], more: tuple[str]
) -> None:
    for asked, (status, answer) in list(hub.answers.items()):
        hub.answers[asked] = (status, _poisoned(answer))
    hub.answer("GET", "/deployments/dunknown", {"detail": HARMFUL}, 404)
    _, out, err = run(capsys, *words, *more)
    assert out + err
    for line in (out + err).splitlines():
        assert line.isprintable()
        assert not line.startswith("fieldfare: all is well")


def test_a_page_holds_nothing_that_turns_its_lines_around(
    hub: CannedHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("GET", f"/deployments/{ID}", _poisoned(report_json()))
    page = tmp_path / "outcome.html"
    run(capsys, "deployment", "show", ID, "--page", str(page))
    assert "gnp.exe" in page.read_text()
    assert all(line.isprintable() for line in page.read_text().split("\n"))


def test_without_a_hub_one_line_names_the_address_and_how_to_start_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFARE_HUB_URL", "http://127.0.0.1:1")
    code, out, err = run(capsys, "status")
    assert (code, out) == (Exit.NO_HUB, "")
    assert err.startswith("fieldfare: no hub answers at http://127.0.0.1:1 (Connection refused): ")
    assert err.count("\n") == 1


def test_a_refusal_of_the_hub_is_one_line_and_an_exit_code(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"title": "No", "status": 404, "detail": "there is no release 'x@1'"}
    hub.answer("POST", "/deployments", problem, 404)
    code, out, err = run(capsys, "deploy", "x@1", "--group", "all")
    assert (code, out, err) == (Exit.REFUSED, "", "fieldfare: there is no release 'x@1'\n")


@pytest.mark.parametrize(
    "words",
    [
        ("deploy", "lamp@1"),
        ("deploy", "lamp@1", "--group", "all", "--device", "d1"),
        ("deploy", "lamp@1", "--device", "d1", "--where", "site=s7"),
        ("deploy", "lamp@1", "--group", "all", "--expires-s", "0"),
        ("set", "d4", "mode"),
        ("set", "--group", "all", "d4", "mode", "eco"),
        ("set", "d4", "mode", "eco", "--policy", "mine"),
        ("unset", "mode"),
        ("status", "--hub", "ftp://hub"),
        ("nonsense",),
        ("release", "build"),
        ("completion", "tcsh"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_asks_the_hub_for_nothing(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (Exit.USAGE, "")
    assert err.startswith("fieldfare")
    assert err.endswith("--help)\n")
    assert err.count("\n") == 1
    assert hub.asked == []


def test_fieldfare_alone_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == Exit.USAGE
    assert "Commands:" in out + err


def test_a_value_is_json_and_anything_else_is_text(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["5", "-5.5", "true", "null", '"5"', "eco", "[1", '{"a":[1]}', "NaN", ""]
    values = [5, -5.5, True, None, "5", "eco", "[1", {"a": [1]}, "NaN", ""]
    assert [parse_value(text) for text in texts] == values
    assert parse_value("[" * 10_000) == "[" * 10_000
    assert run(capsys, "set", "--group", "all", "mode", "-5")[0] == 0
    assert hub.wishes("PUT", "/groups/all/settings/mode") == [{"value": -5}]


def test_a_deployment_carries_what_was_asked_for(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "deploy", "lamp@1", "--device", "d1", "--device", "d2", "--expires-s", "60")
    run(capsys, "deploy", "lamp@1", "--group", "all", "--where", "site=s7")
    assert hub.wishes("POST", "/deployments") == [
        {"release": "lamp@1", "devices": ["d1", "d2"], "expires_s": 60.0},
        {"release": "lamp@1", "group": "all", "where": "site=s7"},
    ]


def test_waiting_ends_well_when_every_device_runs_it(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("GET", f"/deployments/{ID}", report_json(finished("d1")))
    code, out, err = run(capsys, "deploy", "lamp@1", "--group", "all", "--wait")
    assert (code, err) == (0, "")
    assert "1 of 1 device runs" in out


def test_waiting_tells_devices_that_are_done_from_devices_that_are_not(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("deploy", "lamp@1", "--group", "all", "--wait", "--wait-s", "0.01")
    code, _, err = run(capsys, *words)
    assert code == Exit.STILL_OPEN
    assert "2 of 6 devices not done: " in err
    rolled_back = [each for each in report_json()["devices"] if each["device"] == "d4"]
    hub.answer(
        "GET",
        f"/deployments/{ID}",
        report_json() | {"devices": rolled_back, "targeted_count": 1, "running_count": 0},
    )
    code, _, err = run(capsys, *words)
    assert (code, err) == (Exit.NOT_ALL_RUN, "fieldfare: it does not run on 1 of 1 device\n")


def test_a_release_is_built_uploaded_and_published(
    hub: CannedHub, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = run_json(
        capsys, "release", "build", "--unsigned", str(tree), "--output", str(tree.parent / "out")
    )
    sha256 = built["artifact"]["sha256"]
    hub.answer("PUT", f"/blobs/{sha256}", {}, 201)

    told = run_json(capsys, "release", "build", "--unsigned", str(tree))

    assert (told["release"], told["digest"]) == ("lamp@1.0.0", built["digest"])
    ((*_, body),) = [each for each in hub.asked if each[0] == "PUT"]
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.getnames() == ["lamp.py"]
    (manifest,) = hub.wishes("POST", "/releases")
    assert manifest["artifacts"][0]["sha256"] == sha256


def test_an_artifact_that_the_hub_has_is_not_uploaded_again(
    hub: CannedHub, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = run_json(
        capsys, "release", "build", "--unsigned", str(tree), "--output", str(tree.parent / "out")
    )
    hub.answer("HEAD", f"/blobs/{built['artifact']['sha256']}")
    assert run(capsys, "release", "build", "--unsigned", str(tree))[0] == 0
    assert [method for method, *_ in hub.asked] == ["HEAD", "POST"]


def test_a_release_can_be_built_without_a_hub(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tree.parent / "out"
    told = run_json(
        capsys,
        "release",
        "build",
        "--unsigned",
        str(tree),
        "--version",
        "2.0",
        "--output",
        str(output),
    )
    assert sorted(path.name for path in output.iterdir()) == [
        "lamp-2.0.json",
        "lamp-2.0.tree.tar.gz",
    ]
    assert json.loads((output / "lamp-2.0.json").read_text())["version"] == "2.0"
    assert told["hub"] is None


def test_a_wrong_release_is_refused_before_anything_is_sent(
    hub: CannedHub, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "release.toml").write_text('component = "lamp"')
    code, out, err = run(capsys, "release", "build", "--unsigned", str(tree))
    assert (code, out) == (Exit.BAD_RELEASE, "")
    assert err.startswith(f"fieldfare: {tree / 'release.toml'}: ")
    assert "version: is missing" in err
    assert hub.asked == []


def test_where_nothing_can_be_written_nothing_is_left(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tree.parent / "file"
    blocked.write_text("")
    code, _, err = run(
        capsys, "release", "build", "--unsigned", str(tree), "--output", str(blocked / "out")
    )
    assert code == Exit.FILE
    assert err.count("\n") == 1
    assert sorted(path.name for path in tree.parent.iterdir()) == ["file", "tree"]


def test_a_page_of_a_deployment_is_saved(
    hub: CannedHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "outcome.html"
    code, out, _ = run(capsys, "deployment", "show", ID, "--page", str(page))
    assert code == 0
    assert f"saved {page}" in out
    assert page.read_text().startswith("<!doctype html>")


def test_a_wrong_setting_of_the_hub_ends_it_before_it_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFARE_HUB_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FIELDFARE_HUB_HTTP_PORT", "99999")
    for words in (("hub",), ("settings",)):
        code, out, err = run(capsys, *words)
        assert (code, out) == (3, "")
        assert "http_port (from FIELDFARE_HUB_HTTP_PORT)" in err


def test_the_address_of_the_hub_is_no_setting_of_the_hub(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFARE_HUB_URL", "http://127.0.0.1:1")
    names = [row["name"] for row in run_json(capsys, "settings")]
    assert "state_dir" in names
    assert "url" not in names


def test_help_imports_neither_tables_nor_the_web_framework() -> None:
    code = (
        "import sys; from hub.cli import main; main(['--help']); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "How many devices run the latest version" in done.stdout
    assert not {"rich", "litestar", "uvicorn", "pydantic", "apsw"} & set(done.stderr.split())


def test_devices_complete_and_without_a_hub_completion_says_nothing(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FIELDFARE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "fieldfare device ")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out == "plain,d4\n"
    monkeypatch.setenv("FIELDFARE_HUB_URL", "http://127.0.0.1:1")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize("option", ["--expires-s", "--wait-s"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "x"])
def test_a_time_that_does_not_end_is_refused(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], option: str, seconds: str
) -> None:
    words = ["deploy", "lamp@1.0.0", "--group", "all", option, seconds]

    assert main(words) == Exit.USAGE
    assert option in capsys.readouterr().err
    assert hub.wishes("POST", "/deployments") == []


def test_waiting_for_a_deployment_to_nobody_is_no_success(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer("POST", "/deployments", {"deployment": ID, "targeted": []}, 202)
    hub.answer("GET", f"/deployments/{ID}", report_json() | {"devices": []})

    assert main(["deploy", "lamp@1.0.0", "--group", "nobody", "--wait"]) == Exit.NOT_ALL_RUN
    assert "deployed to nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["device", ""],
        ["device", "a/b"],
        ["device", "../x"],
        ["forget", "D1"],
        ["deployment", "show", ""],
        ["deployment", "cancel", "a/../b"],
        ["deploy", "lamp@1.0.0", "--device", ""],
        ["deploy", "lamp@1.0.0", "--group", ""],
        ["set", "", "mode", "1"],
        ["set", "--group", "", "mode", "1"],
        ["unset", "d4", ""],
        ["deploy", "lamp@1.0.0", "--group", "All!"],
        ["set", "--group", "all", "Mode!", "eco"],
        ["status", "--hub", "http://127.0.0.1:1/api/v1"],
    ],
    ids=" ".join,
)
def test_a_name_that_is_none_is_said_to_be_none_before_anybody_is_asked(
    hub: CannedHub, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == Exit.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot name a" in line or "leave out" in line
    assert hub.asked == []


def test_devices_that_wait_are_let_go_and_the_order_is_shown(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "deployment", "go", ID, "--device", "d4", "--why", "a leak")
    assert code == Exit.OK
    assert out == (
        "device d4: go on now, only in Sat 02:00-04:00, wait 60 min at most, then go on; "
        "ordered 2027-01-15 08:00 UTC by operator (a leak)\n"
    )
    told = run_json(capsys, "deployment", "go", ID)
    assert told["terms"][0]["who"] == "operator"
    assert hub.wishes("PUT", f"/deployments/{ID}/terms") == [
        {"now": True, "why": "a leak", "device": "d4"},
        {"now": True, "why": ""},
    ]


def test_terms_for_waiting_are_said_with_a_deployment_or_later(
    hub: CannedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ("--window", "Sat", "--window", "Sun", "--defer-s", "60", "--then", "give-up")
    meant = {"windows": ["Sat", "Sun"], "budget_s": 60, "overdue": "give_up"}
    run(capsys, "deploy", "lamp@1", "--group", "all", *said)
    assert hub.wishes("POST", "/deployments") == [
        {"release": "lamp@1", "group": "all", "terms": meant}
    ]
    run(capsys, "deployment", "terms", ID, *said, "--not-now", "--why", "rain")
    assert hub.wishes("PUT", f"/deployments/{ID}/terms") == [meant | {"now": False, "why": "rain"}]
    code, _, err = run(capsys, "deployment", "terms", ID)
    assert code == Exit.USAGE
    assert "--window" in err
