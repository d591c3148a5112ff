"""`fieldfare set` and `fieldfare unset`: what an operator wishes a setting to be."""

import json

import click

from hub.cli.options import (
    Name,
    as_json,
    completes,
    device_names,
    hub_option,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient
from sync.documents import SETTING_KEY_PATTERN, BadName, check_id


# A number below zero is a value, not an option.
@click.command("set", context_settings={"ignore_unknown_options": True})
@click.argument(
    "words",
    metavar="[DEVICE] KEY VALUE",
    nargs=-1,
    required=True,
    shell_complete=completes(device_names),
)
@click.option(
    "--group", type=Name(), metavar="GROUP", help="Wish it for a group, instead of for one DEVICE."
)
@click.option(
    "--policy",
    type=click.Choice(["latest", "operator", "local"]),
    help="Who prevails when an application on the device has set a value too; latest if not given.",
)
@hub_option
@as_json
@talks_to_hub
def set_value(
    words: tuple[str, ...],
    group: str | None,
    policy: str | None,
    client: HubClient,
    *,
    as_json: bool,
) -> None:
    """Wish for a VALUE of the setting KEY on a DEVICE, or in a group.

    VALUE is JSON; what is no JSON is taken as text: 5, true, '"5"', eco.
    An application on the device may have set a value of its own: both are kept, the policy says
    which one counts, and `fieldfare device DEVICE` shows them.
    """
    about, (key, text) = _split(words, group, "KEY VALUE")
    value = parse_value(text)
    client.set_value(about, key, value, is_group=group is not None, policy=policy)
    _say(
        about, group, {"key": key, "value": value}, f"{key} = {json.dumps(value)}", as_json=as_json
    )


@click.command("unset")
@click.argument(
    "words",
    metavar="[DEVICE] KEY",
    nargs=-1,
    required=True,
    shell_complete=completes(device_names),
)
@click.option(
    "--group", type=Name(), metavar="GROUP", help="Take it back in a group, not for one DEVICE."
)
@hub_option
@as_json
@talks_to_hub
def unset_value(
    words: tuple[str, ...], group: str | None, client: HubClient, *, as_json: bool
) -> None:
    """Take back what was wished for the setting KEY on a DEVICE, or in a group."""
    about, (key,) = _split(words, group, "KEY")
    client.unset_value(about, key, is_group=group is not None)
    _say(about, group, {"key": key, "value": None}, f"{key} no longer", as_json=as_json)


def parse_value(text: str) -> object:
    """Return the value that a person typed: JSON, or else the text itself."""
    try:
        value: object = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return value


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def _split(words: tuple[str, ...], group: str | None, rest: str) -> tuple[str, tuple[str, ...]]:
    names = rest.split()
    place = () if group is not None else ("DEVICE",)
    if len(words) != len(place) + len(names):
        wanted = " ".join((*place, *names))
        hint = "" if group is not None else f" (or --group GROUP {rest})"
        raise click.UsageError(f"give {wanted}{hint}; there are {len(words)} words")
    if group is None:
        about, words = words[0], words[1:]
    else:
        about = group
    try:
        check_id(about)
    except BadName as error:
        raise click.UsageError(str(error)) from None
    if not SETTING_KEY_PATTERN.match(words[0]):
        raise click.UsageError(
            f"{words[0][:64]!r} cannot name a setting: use 1 to 63 of a-z, 0-9, dot, _ and -"
        )
    return about, words


def _say(
    about: str, group: str | None, wish: dict[str, object], told: str, *, as_json: bool
) -> None:
    place = "device" if group is None else "group"
    if as_json:
        print_json({place: about, **wish})
    else:
        click.echo(f"{place} {about}: {told}; it counts once the device has taken it")
