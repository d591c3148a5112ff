import json
import re
from pathlib import Path

import pytest

from agent import settings
from agent.declarations import Declaration, declarations
from agent.settings import ENV_PREFIX, BadSettings, Settings, load

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "agent-settings.md"


@pytest.fixture(autouse=True)
def no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "absent.toml")


def written(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_a_name_is_all_that_a_device_must_be_given() -> None:
    found = load(environment={"FIELDFARE_AGENT_DEVICE": "lamp-1"})

    assert found.device == "lamp-1"
    assert found.groups == ("all",)
    assert found.socket_path == Path("/var/lib/fieldfare/agent.sock")


def test_the_environment_prevails_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'device = "lamp-1"\nbroker_port = 1000\nkeepalive_s = 7\n')

    found = load(file, {"FIELDFARE_AGENT_BROKER_PORT": "2000", "OTHER": "x"})

    assert (found.broker_port, found.keepalive_s) == (2000, 7)


def test_lists_and_tables_in_the_environment_are_json() -> None:
    found = load(
        environment={
            "FIELDFARE_AGENT_DEVICE": "lamp-1",
            "FIELDFARE_AGENT_GROUPS": '["all", "north", "all"]',
            "FIELDFARE_AGENT_LABELS": '{"site": "s7"}',
            "FIELDFARE_AGENT_LOCAL_ALLOWED_UIDS": "[1000]",
        }
    )

    assert found.groups == ("all", "north")
    assert found.labels == {"site": "s7"}
    assert found.local_allowed_uids == (1000,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["device is not set", "FIELDFARE_AGENT_DEVICE"]),
        ('device = "Lamp"', ["device", "agent.toml"]),
        ('device = "hub"', ["device", "reserved"]),
        ('device = "lamp"\nkolour = 1', ["kolour", "no setting", "fieldfare-agent settings"]),
        ('device = "lamp"\nbroker_port = 70000', ["broker_port", "65535"]),
        ('device = "lamp"\nhub_url = "ftp://x"', ["hub_url", "http"]),
        ('device = "lamp"\nmqtt_version = "9"', ["mqtt_version", "3.1.1"]),
        ('device = "lamp"\ngroups = ["UP"]', ["groups"]),
        ('device = "lamp"\nretry_first_s = -1', ["retry_first_s"]),
        (f'device = "lamp"\nlocal_socket = "/{"x" * 200}"', ["local_socket", "107"]),
        ("device = \n", ["not TOML", "line 1"]),
        ('device = "lamp"\nbroker_port = "x"', ["broker_port", "agent.toml", "not 'x'"]),
        ('device = "lamp"\nhub_url = "http://"', ["hub_url", "host"]),
        ('device = "lamp"\nhub_url = "http://a:b"', ["hub_url"]),
        ('device = "lamp"\nhub_url = "http://me:pw@hub/?x"', ["hub_url"]),
        ('device = "lamp"\nreconnect_max_s = 0.5', ["reconnect_max_s", "1"]),
        ('device = "lamp"\nretry_first_s = nan', ["retry_first_s"]),
        ('device = "lamp"\nretry_first_s = 400', ["retry_first_s", "retry_longest_s"]),
        ('device = "lamp"\nwall_clock_offset_s = inf', ["wall_clock_offset_s"]),
        ('device = "lamp"\ndevice_class = ""', ["device_class", "empty"]),
        ('device = "lamp"\n[labels]\nsite = "s 7"', ["labels", "'s 7'"]),
        ('device = "lamp"\n[labels]\nclass = "x"', ["labels", "device_class"]),
        ('device = "lamp"\n[labels]\n"a,b" = "x"', ["labels", "'a,b'"]),
        ('device = "lamp"\n[labels]\nsite = 7', ["labels['site']", "text"]),
        (f'device = "lamp"\nstate_dir = "/{"x" * 120}"', ["local_socket", "107"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_place_in_one_line(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(BadSettings) as refused:
        load(written(tmp_path, text), {})

    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_labels_that_would_not_fit_one_record_are_refused() -> None:
    labels = {f"label-{number}": "x" * 63 for number in range(32)}
    text = json.dumps(labels)
    with pytest.raises(BadSettings, match="labels must fit"):
        load(environment={"FIELDFARE_AGENT_DEVICE": "a", "FIELDFARE_AGENT_LABELS": text})


def test_paths_are_absolute_wherever_the_agent_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/srv/me")
    text = 'device = "lamp"\nstate_dir = "s"\ninstall_dir = "~/i"\nlocal_socket = "a.sock"'

    found = load(written(tmp_path, text), {})

    assert found.state_dir == tmp_path / "s"
    assert found.install_dir == Path("/srv/me/i")
    assert found.socket_path == tmp_path / "a.sock"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"missing\.toml: No such file"):
        load(tmp_path / "missing.toml", {})


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(b'device = "\xff"')

    with pytest.raises(BadSettings, match="not TOML"):
        load(path, {})


def test_an_unknown_variable_of_ours_is_refused_so_that_a_typing_error_shows() -> None:
    with pytest.raises(BadSettings, match="FIELDFARE_AGENT_BROKER_PROT"):
        load(environment={"FIELDFARE_AGENT_DEVICE": "lamp", "FIELDFARE_AGENT_BROKER_PROT": "1"})


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_has_a_sentence_and_a_row_in_the_reference(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description is not None
    assert description.endswith(".")
    (row,) = re.findall(rf"^\| `{name}` \| .*$", PAGE.read_text(), flags=re.MULTILINE)
    assert row == row_of(next(each for each in declarations() if each.name == name))


def row_of(each: Declaration) -> str:
    """Return the line of the reference page for one setting."""
    default = "required" if each.required else f"`{json.dumps(each.default)}`"
    if each.default is None and not each.required:
        default = "none"
    if each.name == "python":
        default = "the interpreter that runs the agent"
    limits = ", ".join(part for part in (each.unit, each.limits) if part)
    return f"| `{each.name}` | {default} | {limits} | {each.meaning} | `{each.environment}` |"


def test_what_is_said_of_a_setting_s_limits_is_what_is_checked() -> None:
    said = {each.name: each.limits for each in declarations()}
    assert said["keepalive_s"] == "from 1 to 3600"
    assert said["fetch_stall_s"] == "above 0 to 31536000"
    assert said["mqtt_version"] == "`auto`, `3.1.1`, `5`"
    for setting, wrong in (("keepalive_s", "3601"), ("fetch_stall_s", "0")):
        variables = {f"{ENV_PREFIX}DEVICE": "a", f"{ENV_PREFIX}{setting.upper()}": wrong}
        with pytest.raises(BadSettings, match=setting):
            load(environment=variables)


def test_the_reference_names_no_setting_that_does_not_exist() -> None:
    named = re.findall(r"^\| `([a-z_]+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(named) == sorted(Settings.model_fields)
