"""`fieldfare keys`: make, replace and look at the keys that sign releases.

Owns how a passphrase is asked for, and the order of signing and handing in. What is signed is
decided in `hub.trust.signing`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hub.cli.exits import CommandFailed, Exit
from hub.cli.files import save
from hub.cli.options import (
    as_json,
    failures,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient, HubFailure, NoHub

if TYPE_CHECKING:
    from hub.trust.drafts import Standing
    from hub.trust.keys import KeyFolder

PASSPHRASE_FILE: Final = "FIELDFARE_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable

DEFAULT_FOLDER: Final = Path(click.get_app_dir("fieldfare")) / "keys"

ROOTS_ASKED_MAX: Final = 1024


def keys_option(command: Any) -> Any:
    """Add `--keys`, which becomes the argument `keys`."""
    return click.option(
        "--keys",
        "keys",
        metavar="DIR",
        envvar="FIELDFARE_KEYS",
        default=DEFAULT_FOLDER,
        show_default="keys in the folder of your own settings",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the offline keys; also FIELDFARE_KEYS.",
    )(command)


@contextmanager
def signing() -> Iterator[None]:
    """Turn keys that cannot be used into the end of the command."""
    # These cost 100 ms to import, which only commands that sign should pay.
    from hub.trust.keys import KeysUnusable  # noqa: PLC0415

    try:
        yield
    except KeysUnusable as error:
        raise CommandFailed(str(error), Exit.KEYS) from None


def key_folder(folder: Path) -> "KeyFolder":
    """Return the folder of keys."""
    from hub.trust.keys import KeyFolder  # noqa: PLC0415 - as above

    return KeyFolder(folder)


def passphrase(*, is_new: bool = False) -> Callable[[], str]:
    """Return what asks for the passphrase, once; a file that a variable names answers for it."""
    known: list[str] = []

    def ask() -> str:
        if not known:
            named = os.environ.get(PASSPHRASE_FILE)
            if named:
                known.append(_passphrase_of(Path(named)))
            else:
                known.append(
                    click.prompt(
                        "Passphrase of the keys",
                        hide_input=True,
                        confirmation_prompt=is_new,
                        err=True,
                    )
                )
        return known[0]

    return ask


def now_s() -> int:
    """Return the time of signing."""
    return int(time.time())


def require_right_clock(client: HubClient) -> None:
    """Check that this machine's clock and the hub's agree, before something is signed by it.

    A hub that does not answer is passed over: what is signed may be handed in later.

    Raises:
        CommandFailed: They are apart by more than an hour; nothing was signed.
    """
    from hub.trust.form import CLOCKS_APART_MAX_S  # noqa: PLC0415 - costs 100 ms

    here_s = now_s()
    try:
        there_s = client.trust()["now_ms"] // 1000
    except NoHub:
        return
    if abs(here_s - there_s) > CLOCKS_APART_MAX_S:
        raise CommandFailed(
            f"this machine's clock says {moment(here_s * 1000)}, the hub's {moment(there_s * 1000)}"
            ": set the one that is wrong, then type this again; nothing was signed",
            Exit.KEYS,
        )


@click.group()
def keys() -> None:
    """Make, replace and look at the keys that sign releases."""


@keys.command()
@keys_option
@click.option("--root-keys", default=1, show_default=True, help="How many root keys.")
@click.option("--root-threshold", default=1, show_default=True, help="How many have to sign.")
@click.option("--targets-keys", default=1, show_default=True, help="How many targets keys.")
@click.option("--targets-threshold", default=1, show_default=True, help="How many have to sign.")
@click.option(
    "--online",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The hub's public keys, carried here from `trust/online.json` in its state folder; "
    "then nothing is sent.",
)
@hub_option
@as_json
def init(  # noqa: PLR0913 - one argument for each option
    keys: Path,
    root_keys: int,
    root_threshold: int,
    targets_keys: int,
    targets_threshold: int,
    online: Path | None,
    client: HubClient,
    *,
    as_json: bool,
) -> None:
    """Make the keys of a fleet, sign its first root, and hand it to the hub.

    Devices verify from the root: give each of them root.json, which this writes.
    """
    from hub.trust import signing as office  # noqa: PLC0415 - costs 100 ms

    with signing(), failures():
        folder = key_folder(keys)
        if online is None:
            require_right_clock(client)
        offered = _offered(online, client)
        quorums = {
            "root": office.Quorum(root_keys, root_threshold),
            "targets": office.Quorum(targets_keys, targets_threshold),
        }
        office.begin(folder, offered, quorums, passphrase(is_new=True), now_s=now_s())
        if online is None:
            _push(folder, client)
    _tell(folder, None if online is not None else client, is_json=as_json)


@keys.command()
@click.argument("role", type=click.Choice(["root", "targets", "online"]))
@keys_option
@click.option(
    "--signer",
    "signers",
    metavar="ADDRESS",
    multiple=True,
    help="A key that lives elsewhere, such as hsm:2 (see securesystemslib); may be repeated.",
)
@click.option(
    "--public",
    "publics",
    metavar="FILE",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The public half of the --signer at the same place, as PEM.",
)
@click.option("--add", is_flag=True, help="Make one key more, and replace none.")
@click.option(
    "--drop",
    "drops",
    metavar="KEYID",
    multiple=True,
    help="Take this key off and make none in its place; may be repeated.",
)
@click.option("--threshold", type=int, metavar="N", help="How many have to sign from now on.")
@click.option(
    "--online",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="As for `init`; then nothing is sent.",
)
@hub_option
@as_json
def rotate(  # noqa: PLR0913, PLR0917 - one argument for each option
    role: str,
    keys: Path,
    signers: tuple[str, ...],
    publics: tuple[Path, ...],
    drops: tuple[str, ...],
    threshold: int | None,
    online: Path | None,
    client: HubClient,
    *,
    add: bool,
    as_json: bool,
) -> None:
    """Replace the keys of a role: root, targets, or the online ones of the hub.

    Of root and targets, the keys whose files are here are replaced; those that other people hold
    stay. Devices follow by themselves. Replacing the online keys also takes back what a hub that
    was taken over, or whose clock was wrong, has signed.
    """
    from hub.trust import signing as office  # noqa: PLC0415 - costs 100 ms

    if len(signers) != len(publics):
        raise click.UsageError("each --signer needs a --public, in the same order")
    is_change = add or bool(drops) or threshold is not None
    if role == "online" and (is_change or signers):
        raise click.UsageError("the hub has one key for each online role, and makes them itself")
    with signing(), failures():
        folder = key_folder(keys)
        ask = passphrase()
        if online is None:
            require_right_clock(client)
        if role == "online":
            offered = _read_online(online) if online is not None else client.new_online_keys()
            office.replace_online(folder, offered, ask, now_s=now_s())
        else:
            adds = [folder.adopt(role, *each) for each in zip(signers, publics, strict=True)]
            gone = list(drops)
            if not is_change:
                gone = [each.keyid for each in office.replaceable(folder, role)]
            if not adds:
                count = int(add) if is_change else len(gone)
                adds = [folder.make(role, ask()) for _ in range(count)]
            change = office.KeyChange(adds, gone, threshold)
            office.change_keys(folder, role, change, ask, now_s=now_s())
        if online is None:
            _push(folder, client)
    _tell(folder, None if online is not None else client, is_json=as_json)


@keys.command()
@click.argument("role", type=click.Choice(["root", "targets"]))
@keys_option
@click.option("--offline", is_flag=True, help="Send nothing; `fieldfare keys push` does it later.")
@hub_option
@as_json
def renew(role: str, keys: Path, client: HubClient, *, offline: bool, as_json: bool) -> None:
    """Sign the root or the list of releases (targets) again as it is, for another term."""
    from hub.trust import signing as office  # noqa: PLC0415 - costs 100 ms

    with signing(), failures():
        folder = key_folder(keys)
        if not offline:
            require_right_clock(client)
        office.renew(folder, role, passphrase(), now_s=now_s())
        if not offline:
            _push(folder, client)
    _tell(folder, None if offline else client, is_json=as_json)


@keys.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@keys_option
@click.option("--yes", is_flag=True, help="Sign without asking.")
@as_json
def sign(file: Path, keys: Path, *, yes: bool, as_json: bool) -> int:
    """Add the signatures of the keys that are here to a FILE that waits for them.

    Where several keys have to sign and nobody holds them all, the file travels from one holder to
    the next. Shows first what becomes different. Once enough have signed, what was signed is kept,
    and `fieldfare keys push` hands it in. Sends nothing.
    """
    from hub.trust import drafts  # noqa: PLC0415 - costs 100 ms

    with signing():
        folder = key_folder(keys)
        draft = drafts.load(file)
        drafts.standings(folder, draft, now_s=now_s())
        lines = drafts.changes(folder, draft)
        for line in lines:
            click.echo(line, err=True)
        if not yes:
            click.confirm("Sign this?", abort=True, err=True)
        count = drafts.signed_here(folder, draft, passphrase())
        found = drafts.standings(folder, draft, now_s=now_s())
        save(file, draft.encode().decode())
        is_complete = all(each.is_complete for each in found)
        if is_complete:
            drafts.keep(folder, draft)
    _tell_standing(found, lines, count, is_complete=is_complete, is_json=as_json)
    return Exit.OK if is_complete else Exit.STILL_OPEN


def _tell_standing(
    found: "list[Standing]", lines: list[str], count: int, *, is_complete: bool, is_json: bool
) -> None:
    if is_json:
        parts = [
            {**each._asdict(), "signed": list(each.signed), "missing": list(each.missing)}
            for each in found
        ]
        print_json({"complete": is_complete, "added": count, "changes": lines, "signatures": parts})
        return
    click.echo(f"{count} signatures were added" if count != 1 else "1 signature was added")
    for each in found:
        others = ", ".join(keyid[:12] for keyid in each.missing)
        rest = "" if each.is_complete else f"; still to sign: {others}"
        click.echo(f"{each.what}: {len(each.signed)} of {each.threshold}{rest}")
    if is_complete:
        click.echo("it is complete and kept; hand it in with: fieldfare keys push")


@keys.command()
@keys_option
@hub_option
@as_json
@talks_to_hub
def push(keys: Path, client: HubClient, *, as_json: bool) -> None:
    """Hand in what was signed: to a new hub, or after a command that could not reach it."""
    with signing():
        folder = key_folder(keys)
        _push(folder, client)
    _tell(folder, client, is_json=as_json)


@keys.command()
@keys_option
@hub_option
@as_json
@talks_to_hub
def pull(keys: Path, client: HubClient, *, as_json: bool) -> None:
    """Take from the hub what another operator has signed since; it is verified first."""
    from hub.trust import signing as office  # noqa: PLC0415 - costs 100 ms

    with signing():
        folder = key_folder(keys)
        roots: list[bytes] = []
        version = folder.root().version
        while len(roots) < ROOTS_ASKED_MAX:
            content = client.trust_file(f"{version + len(roots) + 1}.root.json")
            if content is None:
                break
            roots.append(content)
        served = client.trust()["roles"].get("targets")
        targets = None
        if served is not None:
            targets = client.trust_file(f"{served['version']}.targets.json")
        office.take_from_hub(folder, roots, targets)
    _tell(folder, client, is_json=as_json)


@keys.command()
@keys_option
@hub_option
@as_json
def status(keys: Path, client: HubClient, *, as_json: bool) -> None:
    """Show the keys, how long what they signed is valid, and what the hub serves."""
    _tell(key_folder(keys), client, is_json=as_json)


def _tell(folder: "KeyFolder", client: HubClient | None, *, is_json: bool) -> None:
    with signing():
        shown = _shown(folder)
    shown["hub"] = None
    if client is not None:
        try:
            shown["hub"] = {"url": client.url, "roles": client.trust()["roles"]}
        except HubFailure as failure:
            shown["hub"] = {"url": client.url, "problem": str(failure)}
    if is_json:
        print_json(shown)
        return
    click.echo(f"keys in {shown['keys']}")
    for role, of_role in shown["roles"].items():
        ids = ", ".join(each["keyid"][:12] for each in of_role["keys"])
        click.echo(f"  {role:<9}  {of_role['threshold']} of {len(of_role['keys'])}  {ids}")
    for role in ("root", "targets"):
        signed = shown[role]
        left_days = signed["left_s"] // 86_400
        late = "" if left_days > 30 else f"  RUNS OUT: fieldfare keys renew {role}"  # noqa: PLR2004 - a month
        click.echo(f"{role} {signed['version']} is valid for {left_days} days{late}")
    click.echo(f"for devices: {shown['root_file']}, SHA-256 {shown['root']['sha256']}")
    hub = shown["hub"]
    if hub is None:
        click.echo("nothing was sent; on a machine that reaches the hub: fieldfare keys push")
    elif "problem" in hub:
        click.echo(f"hub: {hub['problem']}")
    else:
        for role, served in hub["roles"].items():
            until = moment(served["expires_at_ms"])
            click.echo(f"the hub serves {role} {served['version']}, valid until {until}")
        _say_what_differs(shown)


def _say_what_differs(shown: dict[str, Any]) -> None:
    for role in ("root", "targets"):
        here, there = shown[role]["version"], shown["hub"]["roles"].get(role, {}).get("version", 0)
        if here > there:
            click.echo(f"the hub lacks {role} {here}: fieldfare keys push")
        elif there > here:
            click.echo(f"{role} {there} of the hub is newer: fieldfare keys pull")


def _shown(folder: "KeyFolder") -> dict[str, Any]:
    from hub.trust import repository  # noqa: PLC0415 - costs 100 ms
    from hub.trust.keys import digest_of  # noqa: PLC0415 - as above

    root = folder.root()
    targets, _ = folder.targets()
    known = {each.keyid: each.signer for each in folder.every()}
    now = now_s()
    return {
        "keys": str(folder.folder),
        "root_file": str(folder.pinned),
        "roles": {
            role: {
                "threshold": root.roles[role].threshold,
                "keys": [
                    {"keyid": keyid, "signer": known.get(keyid)}
                    for keyid in root.roles[role].keyids
                ],
            }
            for role in (*repository.OFFLINE, *repository.ONLINE)
        },
        "root": {
            "version": root.version,
            "sha256": digest_of(folder.pinned.read_bytes()),
            "left_s": repository.left_s(root, now),
        },
        "targets": {
            "version": targets.version,
            "left_s": repository.left_s(targets, now),
            "releases": list(repository.releases_in(targets)),
        },
    }


def _push(folder: "KeyFolder", client: HubClient) -> None:
    client.hand_in(folder.roots(), folder.targets()[1])


def _offered(online: Path | None, client: HubClient) -> dict[str, dict[str, object]]:
    if online is not None:
        return _read_online(online)
    offered: dict[str, dict[str, object]] = client.trust()["online"]
    return offered


def _read_online(file: Path) -> dict[str, dict[str, object]]:
    try:
        offered: dict[str, dict[str, object]] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{file} cannot be read: {error}", Exit.FILE) from None
    return offered


def _passphrase_of(file: Path) -> str:
    try:
        return file.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(
            f"the passphrase file {file} cannot be read: {error}", Exit.FILE
        ) from None
