import re
from pathlib import Path

import pytest

from hub.errors import BadSettings, ExitCode
from hub.settings import ENV_PREFIX, Settings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "hub-settings.md"


def test_every_setting_has_a_sentence_and_is_in_the_reference_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", PAGE.read_text(), re.MULTILINE))
    assert set(rows) == set(Settings.model_fields)
    defaults = Settings()
    for name, field in Settings.model_fields.items():
        assert field.description
        default = getattr(defaults, name)
        assert rows[name] == ("none" if default is None else f"{default}")


def test_without_a_word_from_anybody_the_defaults_count() -> None:
    settings = load_settings(environment={})
    assert (settings.http_host, settings.http_port, settings.broker_port) == (
        "127.0.0.1",
        8420,
        18830,
    )
    assert settings.broker_address is None


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('http_port = 1\nbroker = "127.0.0.1:1883"\nsilence_s = 5\n')
    settings = load_settings(
        file,
        environment={f"{ENV_PREFIX}HTTP_PORT": "2", f"{ENV_PREFIX}SILENCE_S": "6", "OTHER": "x"},
        chosen={"silence_s": 7},
    )
    assert (settings.http_port, settings.silence_s) == (2, 7)
    assert settings.broker_address == ("127.0.0.1", 1883)


def test_the_address_of_a_hub_is_no_setting_of_one() -> None:
    assert load_settings(environment={"FIELDFARE_HUB_URL": "http://127.0.0.1:1"}) == Settings()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example", ""])
def test_without_tls_http_stays_on_loopback_and_says_why(host: str) -> None:
    with pytest.raises(BadSettings, match="http_host.*loopback.*TLS"):
        load_settings(environment={}, chosen={"http_host": host})


@pytest.mark.parametrize(
    "more",
    [{"tls_certificate": "hub.pem", "tls_key": "hub.key"}, {"proxy_address": "192.0.2.1"}],
)
def test_with_tls_http_may_be_anywhere(more: dict[str, str]) -> None:
    chosen = {"http_host": "0.0.0.0", **more}
    assert load_settings(environment={}, chosen=chosen).http_host == "0.0.0.0"


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"tls_certificate": "hub.pem"}, "belong together"),
        ({"tls_key": "hub.key"}, "belong together"),
        ({"proxy_address": "proxy.example.org"}, "proxy_address.*IP"),
        ({"http_host": "hub.example.org", "proxy_address": "192.0.2.1"}, "no IP address"),
    ],
)
def test_what_does_not_fit_together_is_named(chosen: dict[str, str], words: str) -> None:
    with pytest.raises(BadSettings, match=words):
        load_settings(environment={}, chosen=chosen)


def test_names_of_the_api_come_with_commas_or_as_a_list(tmp_path: Path) -> None:
    named = {f"{ENV_PREFIX}HTTP_NAMES": "hub.example.org, [2001:db8::1],"}
    expected = ("hub.example.org", "[2001:db8::1]")
    assert load_settings(environment=named).http_names == expected
    file = tmp_path / "hub.toml"
    file.write_text('http_names = ["hub.example.org", "[2001:db8::1]"]')
    assert load_settings(file, environment={}).http_names == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_every_loopback_address_will_do(host: str) -> None:
    assert load_settings(environment={}, chosen={"http_host": host}).http_host in {
        host,
        "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("http_port", "70000", "http_port.*FIELDFARE_HUB_HTTP_PORT.*65535"),
        ("broker", "somewhere", "neither 'embedded' nor host:port"),
        ("broker", "host:99999", "neither 'embedded' nor host:port"),
        ("broker", ":1883", "neither 'embedded' nor host:port"),
        ("colour", "red", "no setting 'colour'.*there are: state_dir"),
        ("mqtt_version", "4", "mqtt_version.*'auto', '3.1.1' or '5'"),
    ],
)
def test_a_wrong_setting_is_named_with_where_it_came_from(
    name: str, value: str, words: str
) -> None:
    with pytest.raises(BadSettings, match=words) as caught:
        load_settings(environment={ENV_PREFIX + name.upper(): value})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.SETTINGS


@pytest.mark.parametrize(
    ("content", "words"), [(b"http_port = ", "not TOML"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "hub.toml"
    file.write_bytes(content)
    with pytest.raises(BadSettings, match=f"{file}.*{words}"):
        load_settings(file, environment={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"nowhere\.toml.*No such file"):
        load_settings(tmp_path / "nowhere.toml", environment={})


def test_a_password_is_never_shown() -> None:
    settings = load_settings(environment={}, chosen={"broker_password": "hush"})
    assert "hush" not in repr(settings)
    assert settings.broker_password is not None
    assert settings.broker_password.get_secret_value() == "hush"


def test_an_empty_state_folder_is_not_taken_for_the_current_one() -> None:
    with pytest.raises(BadSettings, match="state_dir.*empty"):
        load_settings(environment={ENV_PREFIX + "STATE_DIR": ""})


# --------------------------------------------------------------------------------- the bucket

KEY = {"artifact_store_key_id": "id"}


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"artifact_store_url": "https://bucket"}, "not s3://bucket/prefix"),
        ({"artifact_store_url": "s3://key:sesame@bucket/prefix"}, "not s3://bucket/prefix"),
        ({"artifact_store_url": "s3://Bucket"}, "not s3://bucket/prefix"),
        ({"artifact_store_endpoint": "s3.example.org"}, "not http"),
        ({"artifact_store_endpoint": "https://key:sesame@s3.example.org"}, "not http"),
        ({"artifact_store_endpoint": "https://s3.example.org/bucket"}, "not http"),
        ({"artifact_store_device_endpoint": "ftp://s3.example.org"}, "not http"),
        (KEY, "settings do not fit together: artifact_store_key_id needs"),
        ({"artifact_store_secret": "sesame"}, "settings do not fit together"),
        ({**KEY, "artifact_store_secret": "sesame", "artifact_store_secret_file": "x"}, "one of"),
        ({"artifact_link_s": 8 * 86_400}, "artifact_link_s"),
    ],
)
def test_a_bucket_that_cannot_be_is_refused_and_no_secret_is_said(
    chosen: dict[str, object], words: str
) -> None:
    with pytest.raises(BadSettings, match=words) as caught:
        load_settings(environment={}, chosen=chosen)
    assert "sesame" not in str(caught.value)


def test_the_secret_may_be_in_a_file_and_shows_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    chosen = {**KEY, "artifact_store_secret_file": str(file)}
    settings = load_settings(environment={}, chosen=chosen)
    with pytest.raises(BadSettings, match=f"{file} cannot be read: No such file"):
        settings.artifact_store_credentials()
    file.write_text("open sesame\n")
    with pytest.raises(BadSettings, match="does not hold one secret") as caught:
        settings.artifact_store_credentials()
    assert "sesame" not in str(caught.value)
    file.write_text("sesame\n")
    assert settings.artifact_store_credentials() == ("id", "sesame")
    plain = load_settings(environment={}, chosen={**KEY, "artifact_store_secret": "sesame"})
    assert plain.artifact_store_credentials() == ("id", "sesame")
    assert "sesame" not in repr(plain) + str(plain.model_dump(mode="json"))
