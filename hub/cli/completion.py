"""`fieldfare completion`: the script that makes a shell complete commands, options and devices."""

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from hub.cli.options import as_json, print_json
from hub.cli.root import COMPLETE_VARIABLE, PROGRAM, root

SHELLS: Final[dict[str, type[ShellComplete]]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@as_json
def completion(shell: str, *, as_json: bool) -> None:
    """Print a completion script for SHELL.

    \b
    bash:  fieldfare completion bash > ~/.local/share/bash-completion/completions/fieldfare
    zsh:   fieldfare completion zsh > a file `_fieldfare` in a folder of your $fpath
    fish:  fieldfare completion fish > ~/.config/fish/completions/fieldfare.fish
    """  # noqa: D301 - \b is click's mark of a paragraph that is not rewrapped
    script = SHELLS[shell](root, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not `source()`: for bash that starts the shell to look at its version.
    text = script.source_template % script.source_vars()
    if as_json:
        print_json({"shell": shell, "script": text})
    else:
        click.echo(text)
