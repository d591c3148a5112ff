"""`fieldfare device`: all that is known of one device."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

import click
from rich.markup import escape

from hub import answers
from hub.cli.options import (
    Name,
    as_json,
    completes,
    console,
    device_names,
    hub_option,
    moment,
    print_json,
    talks_to_hub,
)
from hub.client import HubClient

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@click.command()
@click.argument("device_id", type=Name(), metavar="DEVICE", shell_complete=completes(device_names))
@hub_option
@as_json
@talks_to_hub
def device(device_id: str, client: HubClient, *, as_json: bool) -> None:
    """Show one DEVICE: what it runs, what became of its deployments, its settings, its link."""
    if as_json:
        print_json(client.plain(f"/devices/{quote(device_id, safe='')}"))
        return
    _print(console(), client.device(device_id))


def _print(out: "Console", found: answers.Device) -> None:
    _print_head(out, found)
    if found.deployments:
        out.print("\n[bold]Deployments[/]")
    for each in found.deployments:
        out.print(
            f"  {each.deployment}  {escape(each.release)}  {moment(each.requested_at_ms)}  "
            f"[bold]{each.verdict.value}[/]"
        )
        out.print(f"    {escape(each.sentence)}")
    if found.joined_later:
        out.print("\n[bold]Joined later[/]: not on the list of these deployments, and not counted")
    for late in found.joined_later:
        why = f" ({escape(late.reason)}: {escape(late.detail)})" if late.reason else ""
        out.print(
            f"  {late.deployment}  {escape(late.release)}  {moment(late.requested_at_ms)}  "
            f"[bold]{late.stage.value}[/]{why}"
        )
    if found.settings:
        out.print()
        out.print(_settings(found.settings))
    for wrong in found.offences:
        out.print(
            f"[red]refused {wrong.count} times[/] ({escape(wrong.code)}, last "
            f"{moment(wrong.last_at_ms)}): {escape(wrong.detail)}"
        )
    if found.presence:
        out.print("\n[bold]Link[/], as the hub saw it")
        for seen in found.presence:
            out.print(f"  {moment(seen.at_ms)}  {'connected' if seen.online else 'gone'}")


def _print_head(out: "Console", found: answers.Device) -> None:
    connected = {True: "connected", False: "not connected", None: "connected or not is unknown"}
    out.print(
        f"[bold]{escape(found.device)}[/]  {connected[found.online]}, last heard "
        f"{moment(found.last_uplink_at_ms)}, groups {escape(', '.join(found.groups) or '-')}"
    )
    for run in found.versions:
        proof = "passed its health check" if run.healthy else "[yellow]not proven healthy[/]"
        told = f"runs {escape(run.component)} {escape(run.version or 'nothing')}"
        out.print(f"  {told}: {proof}" + (f" ({escape(run.reason)})" if run.reason else ""))
    for name, value in found.facts.items():
        out.print(f"  {escape(name)}: {_value(value)}", style="dim")


def _settings(rows: Iterable[answers.Setting]) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - only tables need it

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("setting", "counts", "on the device", "wished", "policy", ""):
        table.add_column(name)
    for row in rows:
        conflict = "[yellow]conflict: neither side knew of the other's value[/]"
        table.add_row(
            row.key,
            _value(row.effective),
            _value(row.local),
            _value(row.desired),
            row.policy or "-",
            conflict if row.conflict else "",
        )
    return table


def _value(value: object) -> str:
    return "-" if value is None else escape(json.dumps(value, ensure_ascii=False))
