"""`fieldfare hub broker-config`: write what a broker of one's own needs to hold the line."""

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.serve import hub_environment, settings_option
from hub.errors import HubError

if TYPE_CHECKING:
    from hub.identity.ca import Authority
    from hub.mosquitto import Listener

NAMES: Final = ("localhost", "127.0.0.1")


@click.command("broker-config")
@click.argument("kind", metavar="KIND", type=click.Choice(["mosquitto"]))
@settings_option
@click.option("--state-dir", metavar="DIR", help="Folder of the hub, whose authority signs.")
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the configuration, the rights and the certificates.",
)
@click.option("--host", metavar="ADDRESS", default="", help="Listen there only.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    default=8883,
    show_default=True,
    help="TCP port to listen on.",
)
@click.option(
    "--name",
    "names",
    metavar="NAME",
    multiple=True,
    help="Host name or address by which devices reach the broker; may be given again.",
)
@click.option("--user", metavar="USER", default="", help="User that the broker becomes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def broker_config(  # noqa: PLR0913 - one argument for each option
    kind: str,
    file: Path | None,
    *,
    state_dir: str | None,
    out: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    user: str,
    as_json: bool,
) -> None:
    """Write into a folder all that a broker of this KIND needs: TLS, certificates, rights.

    The hub's authority is made if there is none yet. Files that are there are replaced; the hub may
    run meanwhile. Then start the broker, and the hub with broker_tls, broker and broker_crl.
    """
    from hub.identity.ca import utc  # noqa: PLC0415 - keeps other commands quick
    from hub.identity.files import open_authority  # noqa: PLC0415 - the same
    from hub.mosquitto import CONFIG, CRL, Listener  # noqa: PLC0415 - the same
    from hub.settings import load_settings  # noqa: PLC0415 - the same

    del kind  # there is one
    chosen = {} if state_dir is None else {"state_dir": state_dir}
    try:
        settings = load_settings(file, environment=hub_environment(os.environ), chosen=chosen)
        now = utc(time.time_ns() // 1_000_000)
        authority = open_authority(settings.state_dir, now=now)
    except HubError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    folder = out.absolute()
    listener = Listener(host=host, port=port, user=user)
    try:
        written = _write(authority, folder, settings.state_dir, listener, (*names, *NAMES), now)
    except OSError as error:
        raise CommandFailed(
            f"{error.filename or folder} cannot be written: {error.strerror}", Exit.FILE
        ) from None
    hub_settings = {
        "broker": f"{(names or NAMES)[0]}:{port}",
        "broker_tls": True,
        "broker_crl": str(folder / CRL),
    }
    told = {
        "config": str(folder / CONFIG),
        "files": written,
        "hub_settings": hub_settings,
        "authority": authority.fingerprint.hex(),
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"Start the broker: mosquitto -c {told['config']}")
    click.echo("Settings of the hub:")
    for name, value in hub_settings.items():
        click.echo(f"  {name} = {json.dumps(value)}")
    click.echo(f"Fingerprint of the authority: {told['authority']}")


def _write(
    authority: "Authority",
    folder: Path,
    state_dir: Path,
    listener: "Listener",
    names: tuple[str, ...],
    now: datetime,
) -> list[str]:
    from hub import mosquitto  # noqa: PLC0415 - as above
    from hub.identity import files  # noqa: PLC0415 - as above
    from hub.identity.registrar import crl_pem  # noqa: PLC0415 - as above

    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    files.write_server(authority, folder, mosquitto.SERVER, names, now=now)
    kept = state_dir / files.FOLDER / files.CRL
    crl = kept.read_bytes() if kept.exists() else crl_pem(authority.sign_crl([], now=now))
    texts = {
        mosquitto.AUTHORITY: authority.pem(),
        mosquitto.CRL: crl,
        mosquitto.ACL: mosquitto.acl_text().encode(),
        mosquitto.CONFIG: mosquitto.config_text(listener, folder).encode(),
    }
    for name, content in texts.items():
        files.write_file(folder / name, content, mode=files.PUBLIC)
    return sorted([*texts, f"{mosquitto.SERVER}.pem", f"{mosquitto.SERVER}.key"])
