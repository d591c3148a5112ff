"""`fieldfare release import`: a release made of a Mender artifact."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.keys import keys_option
from hub.cli.options import as_json, bytes_words, failures, hub_option, print_json
from hub.cli.sending import send, sign, write
from hub.client import HubClient

if TYPE_CHECKING:
    from hub.mender.release import MenderRelease


@click.command("import")
@click.argument(
    "file", metavar="FILE.mender", type=click.Path(dir_okay=False, exists=True, path_type=Path)
)
@click.option(
    "--manifest",
    "description",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What the artifact does not say: component, health, owner and so on, as release.toml.",
)
@click.option("--component", metavar="NAME", help="What is released.")
@click.option("--version", metavar="V", help="Version, in place of the artifact's name.")
@click.option("--health", metavar="COMMAND", help="Must end with 0 on the device, or it goes back.")
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Public key (PEM) that the artifact must be signed with.",
)
@click.option(
    "--depends",
    metavar="KEY=COMPONENT",
    multiple=True,
    help="Which component a key stands for that the artifact depends on; may be repeated.",
)
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
def import_release(  # noqa: PLR0913, PLR0917 - one argument for each option
    file: Path,
    description: Path | None,
    component: str | None,
    version: str | None,
    health: str | None,
    key: Path | None,
    depends: tuple[str, ...],
    output: Path | None,
    unmeasured: str | None,
    keys: Path,
    client: HubClient,
    *,
    unsigned: bool,
    as_json: bool,
) -> None:
    """Make a release of a Mender artifact, sign it, and publish it on the hub.

    Devices install it with the update module that it names, by the installer mender-module. The
    artifact's own signature is checked if --key is given; the release is signed as any other.
    """
    from hub.mender.release import mender_release  # noqa: PLC0415 - only this command needs it
    from hub.release_build import BadRelease, read_fields  # noqa: PLC0415 - pydantic

    try:
        fields: dict[str, Any] = read_fields(description) if description is not None else {}
        fields |= _said(component, version, health, unmeasured)
        _require(fields)
        with mender_release(
            file,
            fields,
            key=key.read_bytes() if key is not None else None,
            stands_for=_pairs(depends),
        ) as made:
            hub = client if output is None else None
            targets = sign(made.manifest, keys, hub, is_signed=not unsigned)
            places: dict[str, Path] = {}
            if output is not None:
                places = write(made.manifest, made.artifacts, output, targets)
            else:
                with failures():
                    send(made.manifest, made.artifacts, targets, client, is_quiet=as_json)
            _report(made, places, client, is_checked=key is not None, is_json=as_json)
    except BadRelease as error:
        raise CommandFailed(str(error), Exit.BAD_RELEASE) from None


def _said(
    component: str | None, version: str | None, health: str | None, unmeasured: str | None
) -> dict[str, Any]:
    """Return the fields that the command line gives."""
    given = {"component": component, "version": version, "unmeasured": unmeasured}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if health is not None:
        try:
            fields["health"] = {"command": shlex.split(health)}
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--health") from None
    return fields


def _require(fields: dict[str, Any]) -> None:
    for name, option in (("component", "--component NAME"), ("health", "--health COMMAND")):
        if name not in fields:
            raise CommandFailed(
                f"{name} is missing: give {option}, or a file with --manifest", Exit.BAD_RELEASE
            )


def _pairs(depends: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for each in depends:
        key, equals, component = each.rpartition("=")
        if not (key and equals and component):
            raise click.BadParameter(f"{each!r} is not KEY=COMPONENT", param_hint="--depends")
        pairs[key] = component
    return pairs


def _report(
    made: "MenderRelease",
    places: dict[str, Path],
    client: HubClient,
    *,
    is_checked: bool,
    is_json: bool,
) -> None:
    manifest = made.manifest
    name = f"{manifest.component}@{manifest.version}"
    if is_json:
        print_json(
            {
                "release": name,
                "digest": manifest.digest().hex(),
                "payload_type": manifest.parameters["payload_type"],
                "artifacts": [artifact.model_dump() for artifact in manifest.artifacts],
                "signature": "checked" if is_checked else "there" if made.is_signed else "none",
                "hub": None if places else client.url,
                "files": {part: os.fspath(place) for part, place in places.items()},
            }
        )
        return
    size_bytes = sum(artifact.length_bytes for artifact in manifest.artifacts)
    click.echo(f"{name}  {manifest.digest().hex()}")
    click.echo(
        f"payload of type {manifest.parameters['payload_type']}, {len(manifest.artifacts)} files, "
        f"{bytes_words(size_bytes)}"
    )
    if made.is_signed and not is_checked:
        click.echo("the Mender artifact is signed; whose signature it is was not checked: --key")
    if places:
        for place in places.values():
            click.echo(f"wrote {place}")
    else:
        click.echo(f"published on {client.url}; now: fieldfare deploy {name} --group all")
