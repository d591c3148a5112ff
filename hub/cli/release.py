"""`fieldfare release`: build a release of a folder, and list what there is."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hub import answers
from hub.cli.exits import CommandFailed, Exit
from hub.cli.options import (
    as_json,
    bytes_words,
    console,
    failures,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient

if TYPE_CHECKING:
    from hub.release_build import Build

LARGE_BYTES: Final = 4 * 1024 * 1024
"""From this size on an upload shows how far it is."""


@click.group()
def release() -> None:
    """Build and list releases."""


@release.command()
@click.argument(
    "trees",
    metavar="TREE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option(
    "--manifest",
    "description",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Description of the release; release.toml in the last TREE if not given.",
)
@click.option("--version", metavar="V", help="Version, in place of the one in the description.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files there instead of publishing them on a hub.",
)
@hub_option
@as_json
def build(
    trees: tuple[Path, ...],
    description: Path | None,
    version: str | None,
    output: Path | None,
    client: HubClient,
    *,
    as_json: bool,
) -> None:
    """Build a release of a folder and publish it on the hub.

    Several TREEs are laid over each other: of two files with the same name the later one's counts.
    The same tree always gives the same digest, and publishing it twice changes nothing.
    """
    # pydantic is only needed here
    from hub.release_build import DESCRIPTION, BadRelease, build_release  # noqa: PLC0415

    try:
        with build_release(trees, description or trees[-1] / DESCRIPTION, version=version) as built:
            if output is not None:
                places = _write(built, output)
            else:
                places = {}
                with failures():
                    _publish(built, client, is_quiet=as_json)
            _report(built, places, client, is_json=as_json)
    except BadRelease as error:
        raise CommandFailed(str(error), Exit.BAD_RELEASE) from None


@release.command("list")
@hub_option
@as_json
@talks_to_hub
def list_releases(client: HubClient, *, as_json: bool) -> None:
    """List the releases that the hub has, the latest first."""
    if as_json:
        print_json(client.plain("/releases")["items"])
        return
    found = client.releases()
    if not found:
        click.echo("The hub has no release yet: fieldfare release build TREE")
        return
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("release", "published", "size", "digest"):
        table.add_column(name, no_wrap=True)
    for each in found:
        table.add_row(
            each.release,
            moment(each.created_at_ms),
            bytes_words(_bytes_of(each)),
            each.digest[:16],
        )
    console().print(table)


def _publish(built: "Build", client: HubClient, *, is_quiet: bool) -> None:
    (artifact,) = built.manifest.artifacts
    if not client.has_blob(artifact.sha256):
        if is_quiet or artifact.length_bytes < LARGE_BYTES:
            client.put_blob(built.artifact, artifact.sha256)
        else:
            with click.progressbar(length=artifact.length_bytes, label="Uploading") as bar:
                client.put_blob(built.artifact, artifact.sha256, bar.update)
    client.publish(built.manifest)


def _write(built: "Build", folder: Path) -> dict[str, Path]:
    stem = f"{built.manifest.component}-{built.manifest.version}"
    places = {
        "artifact": folder / f"{stem}.{built.manifest.artifacts[0].name}",
        "manifest": folder / f"{stem}.json",
    }
    parts = {name: place.with_name(f".{place.name}.part") for name, place in places.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(built.artifact, parts["artifact"])
            parts["manifest"].write_bytes(built.manifest.canonical())
            for name, part in parts.items():
                part.replace(places[name])
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be written: {error.strerror}", Exit.FILE) from None
    return places


def _report(built: "Build", places: dict[str, Path], client: HubClient, *, is_json: bool) -> None:
    (artifact,) = built.manifest.artifacts
    if is_json:
        print_json(
            {
                "release": built.name,
                "digest": built.digest,
                "artifact": artifact.model_dump(),
                "entries_count": built.entries_count,
                "hub": None if places else client.url,
                "files": {name: os.fspath(place) for name, place in places.items()},
            }
        )
        return
    click.echo(f"{built.name}  {built.digest}")
    click.echo(
        f"{built.entries_count} entries, {bytes_words(built.tree_bytes)}, packed "
        f"{bytes_words(artifact.length_bytes)}"
    )
    if places:
        for place in places.values():
            click.echo(f"wrote {place}")
    else:
        click.echo(f"published on {client.url}; now: fieldfare deploy {built.name} --group all")


def _bytes_of(release: answers.Release) -> int:
    return sum(each["length_bytes"] for each in release.manifest.get("artifacts", ()))
