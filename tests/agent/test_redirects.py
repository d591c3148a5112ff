import pytest

from agent.redirects import LOCATION_MAX, StoreFailed, followed, origin_of

SIGNED = "X-Amz-Signature=0123"


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("http://127.0.0.1:1/a", "http://127.0.0.1:2/b?c", "http://127.0.0.1:2/b?c"),
        ("http://[::1]:1/a", "http://localhost/b", "http://localhost/b"),
        ("http://127.0.0.1:1/a", "https://s3.example.org/b", "https://s3.example.org/b"),
        ("https://hub.example.org/a", "https://s3.example.org/b", "https://s3.example.org/b"),
        ("http://hub.example.org/a", "https://s3.example.org/b", "https://s3.example.org/b"),
        ("http://hub.example.org/a", "/b", "http://hub.example.org/b"),
        ("http://hub.example.org/a", "http://hub.example.org:80/b", "http://hub.example.org:80/b"),
    ],
)
def test_https_and_loopback_are_followed_and_so_is_the_same_server(
    url: str, location: str, target: str
) -> None:
    assert followed(url, location) == target


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://hub.example.org/a", f"http://hub.example.org/b?{SIGNED}"),
        ("https://hub.example.org/a", f"http://127.0.0.1/b?{SIGNED}"),
        ("http://hub.example.org/a", f"http://s3.example.org/b?{SIGNED}"),
        ("http://hub.example.org/a", f"http://127.0.0.1/b?{SIGNED}"),
        ("http://hub.example.org/a", f"http://hub.example.org:8080/b?{SIGNED}"),
        ("http://127.0.0.1/a", f"http://192.168.1.1/b?{SIGNED}"),
        ("http://127.0.0.1/a", f"http://127.0.0.1.example.org/b?{SIGNED}"),
        ("https://hub.example.org/a", f"https://name:secret@s3.example.org/b?{SIGNED}"),
        ("https://hub.example.org/a", f"https://s3.example.org/b c?{SIGNED}"),
        ("https://hub.example.org/a", f"https://s3.example.org/\u00e4?{SIGNED}"),
        ("https://hub.example.org/a", f"https://s3.example.org/b\x01?{SIGNED}"),
        ("https://hub.example.org/a", f"https://s3.example.org:99999/b?{SIGNED}"),
        ("https://hub.example.org/a", f"file:///etc/passwd?{SIGNED}"),
        ("https://hub.example.org/a", f"ftp://s3.example.org/b?{SIGNED}"),
        ("https://hub.example.org/a", f"https://s3.example.org/b?{SIGNED}{'x' * LOCATION_MAX}"),
        ("https://hub.example.org/a", f"http://[?{SIGNED}"),
        ("https://hub.example.org/a", ""),
    ],
)
def test_nothing_else_is_and_what_is_said_holds_no_signature(url: str, location: str) -> None:
    with pytest.raises(StoreFailed, match="no place to go to") as caught:
        followed(url, location)
    assert SIGNED not in str(caught.value)


def test_a_server_is_the_same_with_its_usual_port_and_another_with_another() -> None:
    assert origin_of("https://a.example.org/x") == origin_of("https://A.example.org:443/y?z")
    assert origin_of("https://a.example.org") != origin_of("http://a.example.org")
    assert origin_of("https://a.example.org") != origin_of("https://a.example.org:8443")
