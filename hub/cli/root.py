"""`fieldfare` itself: which commands there are, and what every one of them does about failures.

Owns the list of commands, and the one line and exit code that a failure ends with. Never knows what
a command does.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from hub.cli.exits import CommandFailed, Exit
from hub.shown import shown

PROGRAM: Final = "fieldfare"

COMPLETE_VARIABLE: Final = "_FIELDFARE_COMPLETE"
"""How a shell asks for completions; the script of `fieldfare completion` sets it."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    Args:
        members: For each name, the module, the command's name in it, and the line that `--help`
            shows of it.
    """

    def __init__(
        self, *args: Any, members: Mapping[str, tuple[str, str, str]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.members = members

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a person meets them."""
        del ctx
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called `cmd_name`; None if there is none."""
        del ctx
        if cmd_name not in self.members:
            return None
        module, name, _ = self.members[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in self.members.items()])


MEMBERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "hub": ("hub.cli.serve", "hub", "Run the hub."),
    "enroll": ("hub.cli.enroll", "enroll", "Let devices in, and show where they drop off."),
    "release": ("hub.cli.release", "release", "Build, sign, publish and list releases."),
    "keys": ("hub.cli.keys", "keys", "Make, replace and look at the keys that sign releases."),
    "deploy": ("hub.cli.deploy", "deploy", "Ask devices to run a release."),
    "deployment": ("hub.cli.deployment", "deployment", "Look at a deployment, or take it back."),
    "status": ("hub.cli.status", "status", "How many devices run the latest version, and why not."),
    "outcome": ("hub.cli.verdicts", "outcome", "What became of a deployment, judged."),
    "outcomes": ("hub.cli.verdicts", "outcomes", "The latest deployments, judged at a glance."),
    "measures": ("hub.cli.measures", "measures", "What devices measured."),
    "events": ("hub.cli.measures", "events", "What went wrong on devices and broke nothing."),
    "cases": ("hub.cli.measures", "cases", "What applications intended, and what it came to."),
    "devices": ("hub.cli.devices", "devices", "List the devices."),
    "device": ("hub.cli.device", "device", "All that is known of one device."),
    "forget": ("hub.cli.forget", "forget", "Remove a device that is gone for good."),
    "set": ("hub.cli.wish", "set_value", "Wish for a value of a setting."),
    "unset": ("hub.cli.wish", "unset_value", "Take a wish back."),
    "flag": ("hub.cli.flag", "flag", "Define flags, deal them out, and end experiments."),
    "flags": ("hub.cli.flags", "flags", "Check that flags can be taken out again."),
    "kill": ("hub.cli.kill", "kill", "Switch a flag or a deployment off everywhere, at once."),
    "token": ("hub.cli.token", "token", "Who may ask the hub for what."),
    "audit": ("hub.cli.audit", "audit", "Who changed what, and when."),
    "demo": ("hub.cli.demo", "demo", "Six agents, one release, and five things that go wrong."),
    "settings": ("hub.cli.settings", "settings", "The settings of the hub, and their values here."),
    "completion": ("hub.cli.completion", "completion", "Print a completion script for a shell."),
}
"""Every command: its module, its name there, and its line in `--help`."""


@click.group(
    cls=LazyGroup,
    members=MEMBERS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command explains itself: fieldfare COMMAND --help",
)
@click.version_option(package_name="fieldfare", message="%(version)s")
def root() -> None:
    """Tell how every update fares on the devices in the field."""


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code; a failure has been said on standard error."""
    try:
        done = root.main(
            list(arguments),
            prog_name=PROGRAM,
            standalone_mode=False,
            complete_var=COMPLETE_VARIABLE,
        )
        click.echo(nl=False)  # flushes, where there is an output
    except CommandFailed as failure:
        return _fail(str(failure), failure.code)
    except click.Abort:
        return _fail("stopped", Exit.INTERRUPTED)
    except click.ClickException as wrong:
        return _misused(wrong)
    except SystemExit:  # what click and rich make of a pipe that nobody reads
        if COMPLETE_VARIABLE in os.environ:  # and how a completion ends
            raise
        return _unwritten(BrokenPipeError())
    except OSError as error:
        return _unwritten(error)
    return done if isinstance(done, int) else Exit.OK


def _unwritten(error: OSError) -> int:
    """Return the exit code where the answer could not be written; raise what is something else.

    Whoever reads a pipe may have seen enough, which is no failure.
    """
    is_unread = isinstance(error, BrokenPipeError)
    if not is_unread and error.filename is not None:
        raise error  # a fault: every command says itself which file failed
    # Nothing more may be written: Python would complain again when it flushes at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if is_unread:
        return Exit.OK
    return _fail(f"the answer cannot be written: {error.strerror}", Exit.FILE)


def _misused(wrong: click.ClickException) -> int:
    """Say on one line what is wrong with the command line; show the help if there is no more."""
    if isinstance(wrong, click.exceptions.NoArgsIsHelpError):
        wrong.show()
        return Exit.USAGE
    context = wrong.ctx if isinstance(wrong, click.UsageError) else None
    path = context.command_path if context is not None else PROGRAM
    click.echo(f"{path}: {wrong.format_message()} (see {path} --help)", err=True)
    return Exit.USAGE


def _fail(message: str, code: int) -> int:
    click.echo(f"{PROGRAM}: {shown(message)}", err=True)
    return code
