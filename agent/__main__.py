"""The command `fieldfare-agent`: runs the agent, and asks a running one.

Owns the command line. Imports the daemon only to run it, so that asking is quick.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agent.showing import lines_of

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
SETTINGS: Final = 3
STATE: Final = 4
SOCKET: Final = 5
NOT_RUNNING: Final = 6
IDENTITY: Final = 7
NO_HUB: Final = 8
STILL_WAITING: Final = 9
UNWRITTEN: Final = 10
INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    OK: "done",
    REFUSED: "the agent refused, and said why",
    USAGE: "the command line is wrong",
    SETTINGS: "a setting is wrong",
    STATE: "the state folder or database cannot be used",
    SOCKET: "the socket for applications cannot be opened",
    NOT_RUNNING: "no agent answers on the socket",
    IDENTITY: "the device is not enrolled, or its identity cannot be used",
    NO_HUB: "no hub answers",
    STILL_WAITING: "nobody has decided about the enrolment yet",
    UNWRITTEN: "the answer cannot be written",
    INTERRUPTED: "stopped by Ctrl-C",
}

COMMANDS: Final = {
    "run": "Run the agent until it is stopped.",
    "enroll": "Get an identity from the hub: with a claim token, or waiting for an operator.",
    "status": "Say how this device is: link, releases, what it is doing.",
    "list": "List the settings of applications on this device.",
    "get": "Show the value of a setting that counts.",
    "set": "Set a value as an application on this device.",
    "unset": "Take back the value set on this device.",
    "why": "Say what this device is doing or waiting for, until when, and what would end it.",
    "inhibit": "Hold a lock, so that nothing is installed, while a command runs or for a time.",
    "release": "Release a lock.",
    "inhibitors": "List the locks that are held.",
    "watch": "Print the settings now and whenever they change.",
    "import": "Take in signed releases from a folder or .tar file that was carried here.",
    "settings": "List the agent's own settings and what they mean.",
    "completion": "Print a completion script for a shell.",
}

SHELLS: Final = ("bash", "zsh", "fish")

WAIT_S: Final = 7 * 86_400.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (`EXIT_CODES`)."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        code = int(options.act(options))
        print(end="", flush=True)  # sys.stdout is None where it was closed
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read this has read enough. Flushing at the end must not complain about it either.
        _write_no_more()
        return OK
    except OSError as error:
        if error.filename is not None:
            raise  # a fault: every command says itself which file failed
        _write_no_more()
        return _complain(f"the answer cannot be written: {error.strerror}", UNWRITTEN)
    return code


def _write_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Version(argparse.Action):
    """`--version`; looks it up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from agent.facts import AGENT_VERSION  # noqa: PLC0415 - as the docstring says

        print(AGENT_VERSION)
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="fieldfare-agent",
        description="Installs releases on this device and reports what became of them.",
        epilog=f"Exit codes: {codes}.",
    )
    parser.add_argument("--version", action=_Version, help="show the version and end")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings file (TOML)")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, act: Any) -> argparse.ArgumentParser:
        text = COMMANDS[name]
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="answer as JSON")
        sub.set_defaults(act=act)
        return sub

    command("run", _run)
    enroll = command("enroll", _enroll)
    enroll.add_argument("--hub", metavar="URL", help="https://host:port; the token names one too")
    enroll.add_argument("--token", help="claim token, as `fieldfare enroll token` prints it")
    enroll.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds it")
    enroll.add_argument("--fingerprint", metavar="HEX", help="SHA-256 of the hub's authority")
    enroll.add_argument(
        "--trust-first-contact", action="store_true", help="take whoever answers for the hub"
    )
    enroll.add_argument("--root", type=Path, metavar="FILE", help="root of signed releases to pin")
    enroll.add_argument(
        "--root-fingerprint", metavar="HEX", help="SHA-256 that the hub's root must have"
    )
    enroll.add_argument("--anew", action="store_true", help="make a new key, forget the old one")
    enroll.add_argument(
        "--wait-s", type=float, default=WAIT_S, metavar="SECONDS", help="longest wait (a week)"
    )
    command("status", _ask("status"))
    command("list", _ask("list"))
    command("get", _ask("get")).add_argument("key")
    set_ = command("set", _ask("set"))
    set_.add_argument("key")
    set_.add_argument("value", help="JSON; anything else is taken as text")
    command("unset", _ask("unset")).add_argument("key")
    command("why", _ask("why"))
    inhibit = command("inhibit", _inhibit)
    inhibit.add_argument("--reason", required=True, help="why; people are shown it")
    inhibit.add_argument("--owner", default="", help="who; the command or the user if not given")
    inhibit.add_argument(
        "--for-s", type=float, default=3600.0, metavar="SECONDS", help="longest time (an hour)"
    )
    inhibit.add_argument("words", nargs="*", metavar="COMMAND", help="held while it runs")
    command("release", _ask("release")).add_argument("lock")
    command("inhibitors", _ask("inhibitors"))
    command("watch", _watch)
    command("import", _import).add_argument("path", type=Path, metavar="PATH")
    command("settings", _settings)
    command("completion", _completion).add_argument("shell", choices=SHELLS)
    return parser


def _load(options: argparse.Namespace) -> Any:
    from agent.settings import BadSettings, load  # noqa: PLC0415 - keeps --help quick

    try:
        return load(options.settings)
    except BadSettings as error:
        _complain(str(error))
        raise SystemExit(SETTINGS) from None


def _run(options: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415 - only needed to run

    from agent.clock import SystemClock  # noqa: PLC0415 - as above
    from agent.daemon import serve  # noqa: PLC0415 - as above
    from agent.identity import NotEnrolled  # noqa: PLC0415 - as above
    from agent.local import LocalSocketError  # noqa: PLC0415 - as above
    from agent.log import start_log  # noqa: PLC0415 - as above
    from agent.store import StoreError  # noqa: PLC0415 - as above

    settings = _load(options)
    start_log(as_json=settings.log_format == "json" or options.json)
    try:
        asyncio.run(serve(settings, SystemClock(wall_offset_s=settings.wall_clock_offset_s)))
    except StoreError as error:
        return _complain(str(error), STATE)
    except LocalSocketError as error:
        return _complain(str(error), SOCKET)
    except NotEnrolled as error:
        return _complain(str(error), IDENTITY)
    finally:
        logging.shutdown()
    return OK


def _enroll(options: argparse.Namespace) -> int:
    from agent import enrolling  # noqa: PLC0415 - the cryptography, 9 MB

    settings = _load(options)
    wishes = enrolling.Wishes(
        hub=options.hub,
        token=options.token,
        token_file=options.token_file,
        fingerprint=options.fingerprint,
        trust_first_contact=options.trust_first_contact,
        anew=options.anew,
        wait_s=options.wait_s,
        root=options.root,
        root_fingerprint=options.root_fingerprint,
    )
    try:
        told = enrolling.enroll(settings, wishes, say=lambda line: print(line, file=sys.stderr))
    except enrolling.Problem as problem:
        codes = {"waiting": STILL_WAITING, "no_hub": NO_HUB, "state": STATE, "usage": USAGE}
        return _complain(str(problem), codes.get(problem.kind, REFUSED))
    _show(told, as_json=options.json)
    return OK


def _ask(operation: str) -> Any:
    def act(options: argparse.Namespace) -> int:
        request: dict[str, Any] = {"op": operation}
        if operation in ("get", "set", "unset"):
            request["key"] = options.key
        if operation == "set":
            request["value"] = _value(options.value)
        if operation == "release":
            request["lock"] = options.lock
        answer = _exchange(_socket_path(options), request)
        if answer is None:
            return NOT_RUNNING
        if not answer.pop("ok", False):
            return _complain(str(answer.get("error")), REFUSED)
        _show(answer, as_json=options.json)
        return OK

    return act


def _watch(options: argparse.Namespace) -> int:
    from agent import asking  # noqa: PLC0415 - keeps --help quick

    try:
        channel = asking.connect(_socket_path(options))
    except asking.NoAgent as error:
        return _complain(str(error), NOT_RUNNING)
    channel.settimeout(None)  # nothing may change for days
    with channel, channel.makefile("rwb") as lines:
        lines.write(b'{"op":"watch"}\n')
        lines.flush()
        while line := lines.readline(asking.LINE_BYTES_MAX):
            try:
                answer = asking.answer_in(line)
            except asking.NoAnswer as error:
                answer = _no_answer(str(error))
            if not answer.pop("ok", False):
                return _complain(str(answer.get("error")), REFUSED)
            _show(answer, as_json=options.json)
            sys.stdout.flush()
    return _complain("the agent has stopped", NOT_RUNNING)


def _inhibit(options: argparse.Namespace) -> int:
    from agent import inhibiting  # noqa: PLC0415 - keeps --help quick

    path, words = _socket_path(options), list(options.words)
    owner = options.owner or (Path(words[0]).name if words else f"user-{os.getuid()}")
    if not words:
        wanted = {"owner": owner, "reason": options.reason, "ttl_s": options.for_s, "lease": True}
        answer = _exchange(path, {"op": "inhibit", **wanted})
        if answer is None:
            return NOT_RUNNING
        if not answer.pop("ok", False):
            return _complain(str(answer.get("error")), REFUSED)
        _show(answer, as_json=options.json)
        return OK
    holder = inhibiting.Holder(
        path, owner=owner, reason=options.reason, longest_s=options.for_s, say=_complain
    )
    try:
        with holder:
            return inhibiting.run(words)
    except inhibiting.Refused as refused:
        return _complain(str(refused), REFUSED)


def _import(options: argparse.Namespace) -> int:
    from agent.asking import wake  # noqa: PLC0415
    from agent.trust.carried import CannotImport, become_owner, import_from  # noqa: PLC0415
    from sync.metadata import Refused  # noqa: PLC0415 - only this command checks signatures here

    settings = _load(options)
    try:
        pinned = settings.pinned_root.read_bytes()
    except OSError as error:
        return _complain(
            f"no root is pinned on this device ({settings.pinned_root}: {error.strerror}), "
            "so nothing can be verified: set trust_root",
            REFUSED,
        )
    try:
        become_owner(settings.state_dir)
        found = import_from(
            options.path,
            settings.state_dir,
            pinned,
            disk_reserve_bytes=settings.disk_reserve_bytes,
        )
    except Refused as refused:
        return _complain(f"{options.path} is refused ({refused.reason}): {refused.detail}", REFUSED)
    except CannotImport as error:
        return _complain(str(error), REFUSED)
    except OSError as error:
        return _complain(f"{error.filename} cannot be written: {error.strerror}", STATE)
    wake(settings.socket_path)
    answer = {
        "releases": list(found.releases),
        "bytes": found.bytes_count,
        "root_version": found.root_version,
        "targets_version": found.targets_version,
    }
    _show(answer, as_json=options.json)
    return OK


def _settings(options: argparse.Namespace) -> int:
    from dataclasses import asdict  # noqa: PLC0415 - keeps --help quick

    from agent.declarations import declarations  # noqa: PLC0415 - as above

    if options.json:
        print(json.dumps([asdict(each) for each in declarations()], indent=1))
        return OK
    for each in declarations():
        default = "required" if each.required else f"default {json.dumps(each.default)}"
        limits = "; ".join(part for part in (default, each.unit, each.limits) if part)
        print(f"{each.name} ({limits.replace('`', '')})")
        print(f"    {each.meaning}\n    {each.environment}")
    return OK


def _completion(options: argparse.Namespace) -> int:
    from agent.completion import script  # noqa: PLC0415 - as above

    text = script(options.shell, COMMANDS)
    print(json.dumps({"shell": options.shell, "script": text}) if options.json else text)
    return OK


def _socket_path(options: argparse.Namespace) -> Path:
    path: Path = _load(options).socket_path
    return path


def _exchange(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    from agent import asking  # noqa: PLC0415 - keeps --help quick

    try:
        return asking.exchange(path, request)
    except asking.NoAgent as error:
        _complain(str(error))
        return None
    except asking.NoAnswer as error:
        return _no_answer(str(error))


def _no_answer(why: str) -> dict[str, Any]:
    return {"ok": False, "error": f"the agent gave no answer ({why}): its log says more"}


def _value(text: str) -> Any:
    """Return what the person meant: JSON if it is that, else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    for line in [json.dumps(answer)] if as_json else lines_of(answer):
        print(line)


def _complain(message: str, code: int = REFUSED) -> int:
    print(f"fieldfare-agent: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
