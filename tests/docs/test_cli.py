import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hub.cli.exits import Exit
from hub.cli.root import PROGRAM, root
from hub.errors import ExitCode

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()


def commands(
    command: click.Command = root, path: tuple[str, ...] = (PROGRAM,)
) -> Iterator[tuple[str, click.Command]]:
    """Give every command that does something, with the words it is called by."""
    if isinstance(command, click.Group):
        if command.invoke_without_command and command is not root:
            yield " ".join(path), command
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from commands(member, (*path, name))
    else:
        yield " ".join(path), command


def section(title: str) -> str:
    """Return what the page says below the heading of a command."""
    heading = rf"^### `{re.escape(title)}(?: [^`]*)?`$"
    found = re.search(heading + r"(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/reference/cli.md has no heading for `{title}`"
    return found[1]


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value)[:40])
def test_every_command_and_each_of_its_options_is_documented(
    name: str, command: click.Command
) -> None:
    text = section(name)
    options = [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    ]
    assert [option for option in options if f"`{option}" not in text] == []


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value)[:40])
def test_no_option_is_documented_that_does_not_exist(name: str, command: click.Command) -> None:
    exist = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"^\| `(--[a-z-]+)", section(name), re.MULTILINE)) <= exist


def test_every_command_speaks_json() -> None:
    assert [
        name
        for name, command in commands()
        if not any("--json" in parameter.opts for parameter in command.params)
    ] == []


def test_every_exit_code_is_documented_and_means_one_thing() -> None:
    ours = {code.value: code.name for code in Exit}
    hubs = {code.value: code.name for code in ExitCode}
    shared = ours.keys() & hubs.keys()
    assert {ours[value] for value in shared} == {"OK", "INTERNAL", "USAGE"}
    documented = {int(value) for value in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert documented == ours.keys() | hubs.keys()
