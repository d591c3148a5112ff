"""`fieldfare demo`: see what the whole thing is for, in under two minutes."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was done and what was reported to this file.",
)
@click.option(
    "--page",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("fieldfare-demo/outcome.html"),
    show_default=True,
    help="Where the HTML page goes.",
)
@click.option("--keep", is_flag=True, help="Keep the folder with logs and databases.")
@click.option(
    "--tls", is_flag=True, help="Enrol the agents, and speak TLS 1.3 with a real Mosquitto."
)
def demo(json_file: Path | None, page: Path, *, keep: bool, tls: bool) -> int:
    """Run a hub and six agents as real processes, and let five things go wrong on purpose.

    Exit code 0 if everything that the hub reports is what was done to the devices, 21 if not, 20 if
    the demo cannot be set up.
    """
    from hub.demo.show import show  # noqa: PLC0415 - keeps other commands quick

    return show(json_file=json_file, page=page, keep=keep, tls=tls)
