"""The command `fieldfare-agent`: runs the agent, and asks a running one.

Owns the command line. Imports the daemon only to run it, so that asking is quick.
"""

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
SETTINGS: Final = 3
STATE: Final = 4
SOCKET: Final = 5
NOT_RUNNING: Final = 6

EXIT_CODES: Final = {
    OK: "done",
    REFUSED: "the agent refused, and said why",
    USAGE: "the command line is wrong",
    SETTINGS: "a setting is wrong",
    STATE: "the state folder or database cannot be used",
    SOCKET: "the socket for applications cannot be opened",
    NOT_RUNNING: "no agent answers on the socket",
}

ANSWER_S: Final = 30.0
LINE_BYTES_MAX: Final = 4 * 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (`EXIT_CODES`)."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.act(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return OK


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="fieldfare-agent",
        description="Installs releases on this device and reports what became of them.",
        epilog=f"Exit codes: {codes}.",
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings file (TOML)")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, act: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="answer as JSON")
        sub.set_defaults(act=act)
        return sub

    command("run", _run, "Run the agent until it is stopped.")
    command("status", _ask("status"), "Say how this device is: link, releases, what it is doing.")
    command("list", _ask("list"), "List the settings of applications on this device.")
    get = command("get", _ask("get"), "Show the value of a setting that counts.")
    get.add_argument("key")
    set_ = command("set", _ask("set"), "Set a value as an application on this device.")
    set_.add_argument("key")
    set_.add_argument("value", help="JSON; anything else is taken as text")
    unset = command("unset", _ask("unset"), "Take back the value set on this device.")
    unset.add_argument("key")
    command("watch", _watch, "Print the settings now and whenever they change.")
    command("settings", _settings, "List the agent's own settings and what they mean.")
    completion = command("completion", _completion, "Print a completion script for a shell.")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
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
    finally:
        logging.shutdown()
    return OK


def _ask(operation: str) -> Any:
    def act(options: argparse.Namespace) -> int:
        request: dict[str, Any] = {"op": operation}
        if operation in ("get", "set", "unset"):
            request["key"] = options.key
        if operation == "set":
            request["value"] = _value(options.value)
        answer = _exchange(_socket_path(options), request)
        if answer is None:
            return NOT_RUNNING
        if not answer.pop("ok", False):
            return _complain(str(answer.get("error")), REFUSED)
        _show(answer, as_json=options.json)
        return OK

    return act


def _watch(options: argparse.Namespace) -> int:
    channel = _connect(_socket_path(options))
    if channel is None:
        return NOT_RUNNING
    with channel, channel.makefile("rwb") as lines:
        lines.write(b'{"op":"watch"}\n')
        lines.flush()
        for line in lines:
            answer = json.loads(line)
            if not answer.pop("ok", False):
                return _complain(str(answer.get("error")), REFUSED)
            _show(answer, as_json=options.json)
            sys.stdout.flush()
    return OK


def _settings(options: argparse.Namespace) -> int:
    from agent.settings import ENV_PREFIX, Settings  # noqa: PLC0415 - keeps --help quick

    rows = [
        {
            "name": name,
            "environment": ENV_PREFIX + name.upper(),
            "default": None if field.is_required() else field.get_default(),
            "required": field.is_required(),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if options.json:
        print(json.dumps(rows, default=str, indent=1))
    else:
        for row in rows:
            default = "required" if row["required"] else f"default {row['default']}"
            print(f"{row['name']} ({default})\n    {row['meaning']}\n    {row['environment']}")
    return OK


def _completion(options: argparse.Namespace) -> int:
    words = " ".join(sorted(_commands()))
    scripts = {
        "bash": f"complete -W '{words}' fieldfare-agent",
        "zsh": f"compctl -k '({words})' fieldfare-agent",
        "fish": f"complete -c fieldfare-agent -f -a '{words}'",
    }
    print(scripts[options.shell])
    return OK


def _commands() -> list[str]:
    actions = make_parser()._subparsers  # noqa: SLF001 - argparse has no public way to list them
    if actions is None:
        return []
    return list(actions._group_actions[0].choices or ())  # noqa: SLF001 - as above


def _socket_path(options: argparse.Namespace) -> Path:
    path: Path = _load(options).socket_path
    return path


def _connect(path: Path) -> socket.socket | None:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(ANSWER_S)
    try:
        channel.connect(os.fspath(path))
    except OSError as error:
        channel.close()
        _complain(
            f"no agent answers on {path} ({error.strerror or error}): start it with "
            "`fieldfare-agent run`, or name its settings with --settings"
        )
        return None
    return channel


def _exchange(path: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    channel = _connect(path)
    if channel is None:
        return None
    with channel, channel.makefile("rwb") as lines:
        lines.write(json.dumps(request).encode() + b"\n")
        lines.flush()
        line = lines.readline(LINE_BYTES_MAX)
    if not line:
        return {"ok": False, "error": "the agent closed the connection without an answer"}
    answer: dict[str, Any] = json.loads(line)
    return answer


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer))
        return
    rows = answer.get("settings")
    if rows is not None:
        for row in rows:
            mark = "  CONFLICT" if row["conflict"] else ""
            print(f"{row['key']} = {json.dumps(row['value'])}  (from {row['winner']}){mark}")
        return
    for name, value in answer.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")


def _complain(message: str, code: int = REFUSED) -> int:
    print(f"fieldfare-agent: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
