"""The hub's HTTP API as the commands and the demo use it: one method for each request.

Owns the requests and what a failed one means. Never prints, never retries: a request that failed is
told to whoever asked. Answers are for people, so all text in them is made harmless (`hub.shown`);
`plain` gives the hub's very words to programs.

Sources: RFC 9110 (HTTP), RFC 9457 (problem details).
"""

import http.client
import ipaddress
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from hub import answers
from hub.shown import shown, shown_all
from sync.manifest import Manifest

DEFAULT_URL: Final = "http://127.0.0.1:8420"

API: Final = "/api/v1"

ANSWER_MAX_S: Final = 30.0
"""Longest wait for one answer."""

ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024

PIECE_BYTES: Final = 4 * 1024 * 1024
"""A longer file is uploaded in pieces, so that what broke off goes on where it stopped."""

PAGE_DEVICES: Final = 500
"""Devices that are asked for at once."""

A = TypeVar("A", bound=answers.Answer)


class HubFailure(Exception):
    """A request was not granted. The message is one line for a person."""


class NoHub(HubFailure):
    """Nothing answers at the address; whether a change arrived is unknown if it was sent."""


class Refused(HubFailure):
    """The hub refuses the request; whoever asked is to blame, and nothing was changed."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status."""


class HubFault(HubFailure):
    """The hub failed, or what answers is no hub. What it was asked to change may be changed."""


class BadCredential(HubFailure):
    """There is a token, and it cannot be used as it is; nothing was sent."""


class BadAddress(HubFailure):
    """The text is no address of a hub; whoever wrote it is to blame."""


class HubClient:
    """Talks to one hub. Safe to use from several threads: every request has its own connection.

    Args:
        url: `http://host:port`, as the hub prints when it starts.
        wait_s: Longest wait for one answer.
        token: Finds the token that says who asks, at each request; None for nobody. It may raise
            `BadCredential`.

    Raises:
        BadAddress: `url` is no such address.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        wait_s: float = ANSWER_MAX_S,
        token: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.url = url.rstrip("/")
        self._wait_s = wait_s
        self._token = token
        try:
            parts = urlsplit(self.url)
            self._host, self._port = parts.hostname, parts.port
        except ValueError as error:
            raise BadAddress(f"{url!r} is no address of a hub: {error}") from None
        if parts.scheme not in {"http", "https"} or not self._host or parts.query or parts.fragment:
            raise BadAddress(f"{url!r} is no address of a hub; one looks like {DEFAULT_URL}")
        if "/api" in parts.path:
            raise BadAddress(f"leave out {parts.path!r}: the address ends before it")
        self._secure = parts.scheme == "https"
        self._base = parts.path.rstrip("/") + API

    # What there is.

    def plain(self, path: str) -> Any:
        """Return the answer to a GET below `/api/v1` as plain JSON, with all that the hub says."""
        return self._json("GET", path)

    def hub(self) -> answers.Hub:
        """Return the hub itself: version, broker, counters."""
        return self._ask(answers.Hub, "GET", "/hub")

    def fleet(self) -> answers.Fleet:
        """Return the answer to `fieldfare status`."""
        return self._ask(answers.Fleet, "GET", "/fleet")

    def devices(self, *, limit: int = PAGE_DEVICES) -> Iterator[answers.Listed]:
        """Yield every registered device in the order of their ids, asking page by page."""
        after = ""
        while True:
            query = urlencode({"limit": limit} | ({"after": after} if after else {}))
            page = self._ask(answers.Page, "GET", f"/devices?{query}")
            yield from page.items
            after = page.next or ""
            if not after:
                return

    def device(self, device: str) -> answers.Device:
        """Return one device with all that is known of it."""
        return self._ask(answers.Device, "GET", f"/devices/{_part(device)}")

    def releases(self) -> tuple[answers.Release, ...]:
        """Return the releases, latest first."""
        return self._ask(answers.Releases, "GET", "/releases").items

    def deployments(self) -> tuple[answers.Request, ...]:
        """Return the latest deployments, latest first."""
        return self._ask(answers.Requests, "GET", "/deployments").items

    def deployment(self, deployment: str) -> answers.Report:
        """Return the report on one deployment."""
        return self._ask(answers.Report, "GET", f"/deployments/{_part(deployment)}")

    def verdicts(self, deployment: str) -> answers.Verdicts:
        """Return every judgement on one deployment."""
        return self._ask(answers.Verdicts, "GET", f"/deployments/{_part(deployment)}/verdicts")

    def flag_verdicts(self, flag: str) -> answers.FlagVerdicts:
        """Return every judgement on a flag."""
        return self._ask(answers.FlagVerdicts, "GET", f"/flags/{_part(flag)}/verdicts")

    def outcomes(self, limit: int) -> tuple[answers.Verdicts, ...]:
        """Return every judgement on each of the latest deployments, latest first."""
        return self._ask(answers.Outcomes, "GET", f"/outcomes?limit={limit}").items

    # What changes something.

    def has_blob(self, sha256: str) -> bool:
        """Tell whether the hub holds these bytes."""
        try:
            self._request("HEAD", f"/blobs/{_part(sha256)}")
        except Refused as refused:
            if refused.status == http.HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def put_blob(
        self, file: Path, sha256: str, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        """Bring a file to the hub under its digest; the hub checks it.

        Raises:
            OSError: The file cannot be read.
            HubFailure: As for every request. Of a file longer than `PIECE_BYTES` the hub keeps the
                pieces that it has for some days, and calling again goes on after them.
        """
        with file.open("rb") as content:
            length_bytes = os.fstat(content.fileno()).st_size
            if length_bytes > PIECE_BYTES:
                self._put_pieces(content, length_bytes, sha256, on_bytes)
                return
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(length_bytes),
            }
            self._request("PUT", f"/blobs/{_part(sha256)}", _Counting(content, on_bytes), headers)

    def _put_pieces(
        self,
        content: IO[bytes],
        length_bytes: int,
        sha256: str,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        path = f"/uploads/{_part(sha256)}"
        told: dict[str, str] = {}
        self._request("HEAD", path, told=told)
        offset = self._offset(told)
        if on_bytes is not None:
            on_bytes(offset)
        while offset < length_bytes:
            content.seek(offset)
            headers = {
                "Content-Type": "application/partial-upload",
                "Upload-Offset": str(offset),
                "Upload-Length": str(length_bytes),
            }
            self._request("PATCH", path, content.read(PIECE_BYTES), headers, told)
            before, offset = offset, self._offset(told)
            if offset <= before:
                raise self._no_hub_there("it took a piece and has no more than before")
            if on_bytes is not None:
                on_bytes(offset - before)

    def _offset(self, told: Mapping[str, str]) -> int:
        text = told.get("upload-offset", "")
        if not text.isdecimal():
            raise self._no_hub_there("it does not say how much it has")
        return int(text)

    def publish(self, manifest: Manifest) -> answers.Release:
        """Publish a release whose artifacts the hub holds; the same one again changes nothing."""
        return self._ask(answers.Release, "POST", "/releases", json.loads(manifest.canonical()))

    def trust(self) -> Any:
        """Return the hub's online keys and which signed metadata it serves."""
        return self._json("GET", "/trust")

    def trust_file(self, name: str) -> bytes | None:
        """Return signed metadata as the hub serves it; None if it has none of this name."""
        try:
            return self._request("GET", f"/trust/metadata/{_part(name)}")
        except Refused as refused:
            if refused.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def hand_in(self, roots: Sequence[bytes], targets: bytes | None) -> Any:
        """Hand in what was signed, roots in order; return as `trust`."""
        wish = {
            "roots": [each.decode() for each in roots],
            "targets": None if targets is None else targets.decode(),
        }
        return self._json("POST", "/trust", wish)

    def new_online_keys(self) -> Any:
        """Let the hub make new online keys; return their public halves."""
        return self._json("POST", "/trust/online", {})

    def get_blob(self, sha256: str) -> bytes:
        """Return a blob that is small enough to be held, such as a manifest."""
        return self._request("GET", f"/blobs/{_part(sha256)}?via=hub")

    def deploy(
        self,
        release: str,
        *,
        group: str | None = None,
        devices: Sequence[str] = (),
        where: str = "",
        expires_s: float | None = None,
        terms: Mapping[str, object] | None = None,
    ) -> answers.Accepted:
        """Deploy a release to a group or to devices; return the deployment's id and its devices."""
        wish: dict[str, object] = {"release": release}
        if group is not None:
            wish["group"] = group
        if devices:
            wish["devices"] = list(devices)
        if where:
            wish["where"] = where
        if expires_s is not None:
            wish["expires_s"] = expires_s
        if terms:
            wish["terms"] = dict(terms)
        return self._ask(answers.Accepted, "POST", "/deployments", wish)

    def set_terms(
        self, deployment: str, terms: Mapping[str, object], *, device: str | None = None
    ) -> tuple[answers.Terms, ...]:
        """Say how devices, or one, may wait with a deployment; return what stands then."""
        body = dict(terms) | ({} if device is None else {"device": device})
        path = f"/deployments/{_part(deployment)}/terms"
        return self._ask(answers.Standing, "PUT", path, body).terms

    def cancel(self, deployment: str) -> answers.Request:
        """Take a deployment back where it was not applied yet; return what it was."""
        return self._ask(answers.Request, "DELETE", f"/deployments/{_part(deployment)}")

    def forget(self, device: str) -> None:
        """Remove a device and all that was ever heard of it."""
        self._request("DELETE", f"/devices/{_part(device)}")

    def set_value(
        self, about: str, key: str, value: object, *, is_group: bool, policy: str | None = None
    ) -> None:
        """Wish for a value of a setting on a device or in a group."""
        wish: dict[str, object] = {"value": value} | ({} if policy is None else {"policy": policy})
        self._json("PUT", _setting(about, key, is_group=is_group), wish)

    def unset_value(self, about: str, key: str, *, is_group: bool) -> None:
        """Take a wish back."""
        self._request("DELETE", _setting(about, key, is_group=is_group))

    def change(self, method: str, path: str, wish: object = None) -> Any:
        """Make a request below `/api/v1` that changes something; return the answer as JSON."""
        return self._json(method, path, wish)

    # Who may ask.

    def tokens(self) -> tuple[answers.Token, ...]:
        """Return the tokens that the hub keeps, latest first; no secret is among them."""
        return self._ask(answers.Tokens, "GET", "/tokens").items

    def create_token(self, name: str, scope: str, expires_s: float) -> answers.NewToken:
        """Make a token; its text is in this answer and nowhere else."""
        wish = {"name": name, "scope": scope, "expires_s": expires_s}
        return self._ask(answers.NewToken, "POST", "/tokens", wish)

    def revoke_token(self, token: str) -> answers.Token:
        """Let a token not count any more."""
        return self._ask(answers.Token, "DELETE", f"/tokens/{_part(token)}")

    def audit(self, *, since_ms: int = 0) -> Iterator[answers.Audited]:
        """Yield what was changed, latest first, asking page by page."""
        before: int | None = None
        while True:
            query = {"since_ms": since_ms, "limit": PAGE_DEVICES}
            query |= {} if before is None else {"before": before}
            page = self._ask(answers.Audit, "GET", f"/audit?{urlencode(query)}")
            yield from page.items
            before = page.next
            if before is None:
                return

    # Requests.

    def _ask(self, kind: type[A], method: str, path: str, wish: object = None) -> A:
        plain = self._json(method, path, wish)
        try:
            return msgspec.convert(shown_all(plain), kind)
        except msgspec.ValidationError as error:
            raise self._no_hub_there(f"{path} gave something else than expected: {error}") from None

    def _json(self, method: str, path: str, wish: object = None) -> Any:
        body, headers = None, {"Accept": "application/json"}
        if wish is not None:
            body = json.dumps(wish).encode()
            headers["Content-Type"] = "application/json"
        text = self._request(method, path, body, headers)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise self._no_hub_there("it answered with something else than JSON") from None

    def _request(
        self,
        method: str,
        path: str,
        body: "bytes | _Counting | None" = None,
        headers: Mapping[str, str] | None = None,
        told: dict[str, str] | None = None,
    ) -> bytes:
        """Make a request and return the body of its answer; its headers go into `told`."""
        token = self._token()
        if token is not None:
            headers = {**(headers or {}), "Authorization": f"Bearer {self._guarded(token)}"}
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(str(self._host), self._port, timeout=self._wait_s)
        try:
            try:
                connection.request(method, self._base + path, body, dict(headers or {}))
            except (BrokenPipeError, ConnectionResetError):
                # A hub that refuses a long body answers before it has read all of it.
                if connection.sock is None:
                    raise
            answer = connection.getresponse()
            text = answer.read(ANSWER_BYTES_MAX)
        except TimeoutError:
            raise NoHub(f"the hub at {self.url} gave no answer in {self._wait_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise NoHub(
                f"the certificate of {self.url} is not trusted here ({error.verify_message}): name "
                "the file of its authority in the variable SSL_CERT_FILE"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise NoHub(
                f"no hub answers at {self.url} ({reason}): start one with `fieldfare hub`, "
                "or name another with --hub or FIELDFARE_HUB_URL"
            ) from None
        except http.client.HTTPException as error:
            raise self._no_hub_there(f"it speaks no HTTP ({type(error).__name__})") from None
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise self._failure(answer.status, text)
        if told is not None:
            told |= {name.lower(): value for name, value in answer.getheaders()}
        return text

    def _guarded(self, token: str) -> str:
        """Return the token unless it would travel where others can read it."""
        if self._secure or is_loopback(str(self._host)):
            return token
        raise BadCredential(
            f"the token would travel to {self.url} for everybody to read, so it was not sent: "
            "ask the hub by https, or through a tunnel that ends on this machine"
        )

    def _failure(self, status: int, text: bytes) -> HubFailure:
        try:
            problem = json.loads(text) if text else {}
        except ValueError:
            problem = {}
        detail = ""
        if isinstance(problem, dict):
            detail = str(problem.get("detail") or problem.get("title") or "")
        detail = shown(" ".join(detail.split()))
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return HubFault(f"the hub at {self.url} failed: {detail or f'HTTP status {status}'}")
        return Refused(detail or f"the hub refused it with HTTP status {status}", status=status)

    def _no_hub_there(self, reason: str) -> HubFault:
        return HubFault(f"what answers at {self.url} is no hub of Fieldfare: {reason}")


def is_loopback(host: str) -> bool:
    """Tell whether what is sent to a host stays on this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Counting:
    """A file that tells how much of it was read."""

    def __init__(self, content: IO[bytes], on_bytes: Callable[[int], None] | None) -> None:
        self._content = content
        self._on_bytes = on_bytes

    def read(self, count: int = -1) -> bytes:
        piece = self._content.read(count)
        if self._on_bytes is not None:
            self._on_bytes(len(piece))
        return piece


def _part(text: str) -> str:
    return quote(text, safe="")


def _setting(about: str, key: str, *, is_group: bool) -> str:
    return f"/{'groups' if is_group else 'devices'}/{_part(about)}/settings/{_part(key)}"
