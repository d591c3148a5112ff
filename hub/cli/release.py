"""`fieldfare release`: build or import a release, sign, publish, list, carry and withdraw it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hub import answers
from hub.cli.exits import CommandFailed, Exit
from hub.cli.keys import (
    key_folder,
    keys_option,
    now_s,
    passphrase,
    require_right_clock,
    signing,
)
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
from hub.cli.release_import import import_release
from hub.cli.sending import TARGETS_SUFFIX, send, sign, write
from hub.client import HubClient

if TYPE_CHECKING:
    from hub.release_build import Build


@click.group()
def release() -> None:
    """Build, sign, publish and list releases."""


release.add_command(import_release)


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
@click.option(
    "--unmeasured",
    metavar="REASON",
    help="Why it has no owner or no outcome; is signed with it and shown.",
)
@click.option(
    "--unsigned", is_flag=True, help="Do not sign: for devices that run with allow_unsigned."
)
@keys_option
@hub_option
@as_json
def build(  # noqa: PLR0913 - one argument for each option
    trees: tuple[Path, ...],
    description: Path | None,
    version: str | None,
    output: Path | None,
    unmeasured: str | None,
    keys: Path,
    client: HubClient,
    *,
    unsigned: bool,
    as_json: bool,
) -> None:
    """Build a release of a folder, sign it, and publish it on the hub.

    Several TREEs are laid over each other: of two files with the same name the later one's counts.
    The same tree always gives the same digest, and publishing it twice changes nothing.
    """
    # pydantic is only needed here
    from hub.release_build import DESCRIPTION, BadRelease, build_release  # noqa: PLC0415

    try:
        file = description or trees[-1] / DESCRIPTION
        with build_release(trees, file, version=version, unmeasured=unmeasured) as built:
            hub = client if output is None else None
            targets = sign(built.manifest, keys, hub, is_signed=not unsigned)
            artifacts = {built.manifest.artifacts[0].name: built.artifact}
            places: dict[str, Path] = {}
            if output is not None:
                places = write(built.manifest, artifacts, output, targets)
            else:
                with failures():
                    send(built.manifest, artifacts, targets, client, is_quiet=as_json)
            _report(built, places, client, is_json=as_json)
    except BadRelease as error:
        raise CommandFailed(str(error), Exit.BAD_RELEASE) from None


@release.command()
@click.argument("description", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--version", metavar="V", help="Version, in place of the one in the description.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write artifacts, manifest and signed list there, and publish nothing.",
)
@click.option(
    "--unmeasured",
    metavar="REASON",
    help="Why it has no owner or no outcome; is signed with it and shown.",
)
@click.option(
    "--unsigned", is_flag=True, help="Do not sign: for devices that run with allow_unsigned."
)
@keys_option
@hub_option
@as_json
def assemble(  # noqa: PLR0913 - one argument for each option
    description: Path,
    version: str | None,
    output: Path | None,
    unmeasured: str | None,
    keys: Path,
    client: HubClient,
    *,
    unsigned: bool,
    as_json: bool,
) -> None:
    """Make a release of files as they are, sign it, and publish it on the hub.

    For images, packages and bundles, and for releases of several parts. DESCRIPTION names the files
    in tables [[files]], beside the keys of a manifest.
    """
    # pydantic is only needed here
    from hub.assembly import assemble as assembled  # noqa: PLC0415
    from hub.release_build import BadRelease  # noqa: PLC0415

    try:
        with assembled(description, version=version, unmeasured=unmeasured) as made:
            hub = client if output is None else None
            targets = sign(made.manifest, keys, hub, is_signed=not unsigned)
            places: dict[str, Path] = {}
            if output is not None:
                places = write(made.manifest, made.artifacts, output, targets)
            else:
                with failures():
                    send(made.manifest, made.artifacts, targets, client, is_quiet=as_json)
            digest = made.manifest.digest().hex()
            if as_json:
                shown = {name: str(path) for name, path in places.items()}
                url = None if output is not None else client.url
                print_json({"release": made.name, "digest": digest, "hub": url, "files": shown})
            elif output is not None:
                click.echo(f"wrote {made.name} ({digest[:16]}) to {output}")
            else:
                click.echo(f"published {made.name} ({digest[:16]}) on {client.url}")
    except BadRelease as error:
        raise CommandFailed(str(error), Exit.BAD_RELEASE) from None


@release.command()
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path))
@hub_option
@as_json
@talks_to_hub
def publish(folder: Path, client: HubClient, *, as_json: bool) -> None:
    """Publish what `--output FOLDER` of `build` or `import` has left there. Needs no keys.

    Uploads what the hub lacks; after a broken link type it again.
    """
    from sync.manifest import BadManifest, parse_manifest  # noqa: PLC0415 - as for `build`

    published = []
    for file in sorted(folder.glob("*.json")):
        if file.name.endswith(TARGETS_SUFFIX):
            continue
        try:
            manifest = parse_manifest(file.read_bytes())
        except (OSError, BadManifest) as error:
            raise CommandFailed(f"{file}: {error}", Exit.BAD_RELEASE) from None
        stem = file.name.removesuffix(".json")
        signed = file.with_name(stem + TARGETS_SUFFIX)
        targets = signed.read_bytes() if signed.is_file() else None
        artifacts = {
            each.name: file.with_name(f"{stem}.{each.name}") for each in manifest.artifacts
        }
        send(manifest, artifacts, targets, client, is_quiet=as_json)
        published.append(f"{manifest.component}@{manifest.version}")
    if not published:
        raise CommandFailed(f"there is no release in {folder}", Exit.BAD_RELEASE)
    if as_json:
        print_json({"hub": client.url, "published": published})
    else:
        click.echo(f"published on {client.url}: {', '.join(published)}")


@release.command()
@click.argument("name", metavar="COMPONENT@VERSION")
@keys_option
@hub_option
@as_json
def withdraw(name: str, keys: Path, client: HubClient, *, as_json: bool) -> None:
    """Take a release off the signed list: devices that know the new list do not install it."""
    from hub.trust import signing as office  # noqa: PLC0415 - costs 100 ms

    component, _, version = name.partition("@")
    with signing(), failures():
        require_right_clock(client)
        targets = office.unlist_release(
            key_folder(keys), component, version, passphrase(), now_s=now_s()
        )
        client.hand_in([], targets)
    if as_json:
        print_json({"withdrawn": name, "hub": client.url})
    else:
        click.echo(f"{name} is not on the signed list any more; what runs it goes on running it")


@release.command("export")
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--release",
    "names",
    metavar="COMPONENT@VERSION",
    multiple=True,
    help="Which one; may be repeated. The latest of each component if not given.",
)
@hub_option
@as_json
@talks_to_hub
def export_releases(
    output: Path, names: tuple[str, ...], client: HubClient, *, as_json: bool
) -> None:
    """Write signed releases to a folder or a .tar file, to be carried to devices.

    There, `fieldfare-agent import` takes them in. The medium needs no trust.
    """
    from hub.cli.export import export  # noqa: PLC0415 - only this command needs it

    written = export(client, names, output)
    if as_json:
        print_json({"output": str(output), "releases": written})
    else:
        click.echo(f"wrote {', '.join(written)} to {output}")


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
    for name in ("release", "published", "size", "digest", "signed"):
        table.add_column(name, no_wrap=True)
    for each in found:
        table.add_row(
            each.release,
            moment(each.created_at_ms),
            bytes_words(_bytes_of(each)),
            each.digest[:16],
            "yes" if each.is_signed else "NO",
        )
    console().print(table)
    for each in found:
        if reason := each.manifest.get("unmeasured"):
            click.echo(f"{each.release} is not measured: {reason}")


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
