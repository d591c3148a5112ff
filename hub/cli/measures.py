"""`fieldfare measures`, `events` and `cases`: what devices measured.

Owns how it is asked for and how it reads. Figures come from the hub; names in them come from
devices, so they are made harmless before they are shown.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import click

from hub.cli.options import (
    Name,
    as_json,
    completes,
    console,
    device_names,
    hub_option,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient
from hub.shown import shown_all

if TYPE_CHECKING:
    from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

BAR_WIDTH: Final = 40
SHADES: Final = "▏▎▍▌▋▊▉█"
DEVICES_SHOWN: Final = 20


def whose(command: F) -> F:
    """Add the options that say which devices and releases are asked about."""
    for option in (
        click.option(
            "--where", default="", metavar="LABELS", help="Only devices with these: site=s7."
        ),
        click.option(
            "--device",
            type=Name(),
            metavar="DEVICE",
            shell_complete=completes(device_names),
            help="Only this device.",
        ),
        click.option(
            "--release",
            default="",
            metavar="RELEASE",
            help="COMPONENT@VERSION, or COMPONENT for all of its versions.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("metric", required=False, default="")
@whose
@click.option(
    "--variant", default="", metavar="FLAG=VARIANT", help="Or FLAG for all of its variants."
)
@hub_option
@as_json
@talks_to_hub
def measures(
    metric: str,
    release: str,
    device: str | None,
    where: str,
    variant: str,
    client: HubClient,
    *,
    as_json: bool,
) -> None:
    """Show what devices measured: every series, or one METRIC device by device.

    METRIC may end in `*`: device.* lists all that begins so.
    """
    asked: dict[str, str | None] = {"release": release, "variant": variant}
    asked |= {"device": device, "where": where}
    is_one = bool(metric) and not metric.endswith("*")
    if is_one:
        found = client.plain(f"/measures/{quote(metric, safe='')}{_query(asked)}")
    else:
        found = client.plain(f"/measures{_query({'metric': metric, **asked})}")
    if as_json:
        print_json(found)
        return
    found = shown_all(found)
    if is_one:
        _print_metric(found)
    else:
        _print_series(found)
    if not found["is_merged"]:
        click.echo("Too many series to merge their values: name a metric or a release.", err=True)


@click.command()
@whose
@click.option("--code", default="", metavar="CODE", help="Only this code.")
@hub_option
@as_json
@talks_to_hub
def events(
    release: str, device: str | None, where: str, code: str, client: HubClient, *, as_json: bool
) -> None:
    """Show what went wrong on devices and broke nothing, the widest spread first."""
    asked: dict[str, str | None] = {"code": code, "release": release}
    asked |= {"device": device, "where": where}
    found = client.plain(f"/events{_query(asked)}")
    if as_json:
        print_json(found)
        return
    found = shown_all(found)
    if not found["items"]:
        click.echo("No device tells of an event.")
        return
    table = _table("code", "release", "devices", "times", "detail")
    for each in found["items"]:
        table.add_row(
            _escaped(each["code"]),
            _escaped(each["release"]),
            str(each["devices_count"]),
            str(each["count"]),
            _escaped(each["detail"]),
        )
    console().print(table)
    _say_left_out(found)


@click.command()
@whose
@hub_option
@as_json
@talks_to_hub
def cases(
    release: str, device: str | None, where: str, client: HubClient, *, as_json: bool
) -> None:
    """Show what applications intended and what it came to, and who had to help."""
    found = client.plain(f"/cases{_query({'release': release, 'device': device, 'where': where})}")
    if as_json:
        print_json(found)
        return
    found = shown_all(found)
    if not found["items"]:
        click.echo("No device tells of a case.")
        return
    table = _table("release", "devices", "cases", "ended", "as intended", "by a person")
    for each in found["items"]:
        table.add_row(
            _escaped(each["release"]),
            *(
                str(each[name])
                for name in (
                    "devices_count",
                    "count",
                    "ended_count",
                    "reached_count",
                    "human_count",
                )
            ),
        )
    out = console()
    out.print(table)
    if found["failed"]:
        out.print()
        failed = _table("device", "case", "intended", "reached", "by", "detail")
        for each in found["failed"][:DEVICES_SHOWN]:
            failed.add_row(
                *(
                    _escaped(each[name])
                    for name in ("device", "intent", "intended", "reached", "by", "detail")
                )
            )
        out.print(failed)


def _print_series(found: dict[str, Any]) -> None:
    if not found["items"]:
        click.echo("No device has measured that yet.")
        return
    table = _table("metric", "release", "variant", "devices", "", "P50", "P95", "most")
    for each in found["items"]:
        table.add_row(
            _escaped(each["metric"]),
            _escaped(each["release"]),
            _escaped(each["variant"]),
            str(each["devices_count"]),
            _sum_words(each),
            *(_number(each.get(name)) for name in ("p50", "p95", "most")),
        )
    console().print(table)
    _say_left_out(found)


def _print_metric(found: dict[str, Any]) -> None:
    out = console()
    for number, each in enumerate(found["series"]):
        if number:
            out.print()
        words = " ".join(part for part in (each["release"], each["variant"]) if part != "-")
        out.print(
            f"[bold]{_escaped(each['metric'])}[/bold]  {_escaped(words)}  "
            f"{each['devices_count']} devices, {_sum_words(each)}"
        )
        for bar in _bars(each.get("bars", [])):
            out.print(bar)
        if each.get("p95") is not None:
            error = found["quantile_error_ratio"]
            out.print(
                f"P50 {_number(each['p50'])}  P95 {_number(each['p95'])}  "
                f"P99 {_number(each['p99'])}  (each to within {error:.1%})"
            )
    if found["devices"]:
        out.print()
        table = _table("device", "release", "variant", "", "P50", "P95", "most")
        for each in found["devices"][:DEVICES_SHOWN]:
            table.add_row(
                _escaped(each["device"]),
                _escaped(each["release"]),
                _escaped(each["variant"]),
                _number(each["total"]) if "total" in each else f"{each['count']} values",
                *(_number(each.get(name)) for name in ("p50", "p95", "most")),
            )
        out.print(table)
        more = len(found["devices"]) - DEVICES_SHOWN + found["left_out_count"]
        if more > 0:
            click.echo(f"and {more} more: --json shows up to a thousand")


def _bars(bars: list[dict[str, Any]]) -> list[str]:
    most = max((each["count"] for each in bars), default=0)
    lines = []
    for each in bars:
        eighths = round(8 * BAR_WIDTH * each["count"] / most) if most else 0
        full, rest = divmod(eighths, 8)
        bar = SHADES[-1] * full + (SHADES[rest - 1] if rest else "")
        if each["count"] and not bar:
            bar = SHADES[0]
        lines.append(f"  ≤ {_number(each['to']):>10}  {bar} {each['count'] or ''}".rstrip())
    return lines


def _sum_words(each: dict[str, Any]) -> str:
    if each["kind"] == "counter":
        return f"{_number(each['total'])} in all"
    return "last values" if each["kind"] == "gauge" else f"{each['count']} values"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _say_left_out(found: dict[str, Any]) -> None:
    if found["left_out_count"]:
        click.echo(f"and {found['left_out_count']} more lines: ask for less")


def _query(asked: dict[str, str | None]) -> str:
    given = {name: value for name, value in asked.items() if value}
    return f"?{urlencode(given)}" if given else ""


def _escaped(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - only tables need it

    return escape(text)


def _table(*names: str) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in {"metric", "code", "device"})
    return table
