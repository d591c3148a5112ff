"""`fieldfare deploy`: ask devices to run a release, and wait for it if wanted."""

import time
from typing import Any, Final

import click

from hub import answers
from hub.cli.exits import CommandFailed, Exit
from hub.cli.options import (
    Name,
    Seconds,
    as_json,
    completes,
    device_names,
    hub_option,
    print_json,
    talks_to_hub,
)
from hub.cli.terms import terms_given, terms_options
from hub.client import HubClient
from hub.outcomes import words
from hub.outcomes.silence import Verdict

POLL_S: Final = 1.0

WAIT_S: Final = 600.0

OVER: Final = frozenset(Verdict) - {
    Verdict.IN_PROGRESS,
    Verdict.DEFERRED,
    Verdict.TOO_EARLY,
    Verdict.SILENT,
    Verdict.UNREACHABLE,
}
"""Verdicts after which nothing more comes from a device."""


def _release_names(client: HubClient) -> list[str]:
    return [each.release for each in client.releases()]


@click.command()
@click.argument("release", shell_complete=completes(_release_names))
@click.option(
    "--group", type=Name(), metavar="GROUP", help="Every device of this group; all are in `all`."
)
@click.option(
    "--where",
    metavar="SELECTOR",
    default="",
    help="Of the group, only devices with these labels: site=s7,class!=pump.",
)
@click.option(
    "--device",
    "devices",
    type=Name(),
    metavar="DEVICE",
    multiple=True,
    shell_complete=completes(device_names),
    help="This device; may be repeated.",
)
@click.option(
    "--expires-s",
    type=Seconds(),
    metavar="SECONDS",
    help="Do not start it any more after so long.",
)
@terms_options
@click.option("--wait", is_flag=True, help="Wait until every device is done with it.")
@click.option(
    "--wait-s",
    type=Seconds(),
    metavar="SECONDS",
    default=WAIT_S,
    show_default=True,
    help="Longest wait.",
)
@hub_option
@as_json
@talks_to_hub
def deploy(  # noqa: PLR0913 - click passes every option as an argument
    release: str,
    group: str | None,
    where: str,
    devices: tuple[str, ...],
    expires_s: float | None,
    wait_s: float,
    client: HubClient,
    *,
    wait: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Ask devices to run RELEASE, as component@version or by its digest.

    The list of devices is fixed now; a device that is away gets it when it is back. With --wait the
    exit code is 0 if every device runs it, 16 if all are done and some do not, 15 if the wait ends
    first.
    """
    if bool(group) == bool(devices):
        raise click.UsageError("name either --group or one or more --device")
    if where and not group:
        raise click.UsageError("--where chooses among a group: give --group too")
    accepted = client.deploy(
        release,
        group=group,
        devices=devices,
        where=where,
        expires_s=expires_s,
        terms=terms_given(**given),
    )
    if not wait:
        if as_json:
            print_json({"deployment": accepted.deployment, "targeted": accepted.targeted})
        else:
            click.echo(f"{accepted.deployment}: {release} for {_named(accepted.targeted)}")
            click.echo(f"see: fieldfare deployment show {accepted.deployment}")
        return
    if not as_json:
        click.echo(f"{accepted.deployment}: {release} for {_named(accepted.targeted)}")
    report = _wait(client, accepted.deployment, wait_s, is_quiet=as_json)
    if as_json:
        print_json(client.plain(f"/deployments/{accepted.deployment}"))
    _judge(report, wait_s)


def _wait(client: HubClient, deployment: str, wait_s: float, *, is_quiet: bool) -> answers.Report:
    """Return the report once every device is done, or when the wait is over."""
    deadline = time.monotonic() + wait_s
    told = ""
    while True:
        report = client.deployment(deployment)
        if not is_quiet and report.sentence != told:
            told = report.sentence
            click.echo(told)
        if all(each.verdict in OVER for each in report.devices) or time.monotonic() >= deadline:
            return report
        time.sleep(POLL_S)


def _judge(report: answers.Report, wait_s: float) -> None:
    if not report.devices:
        raise CommandFailed(
            "it was deployed to nobody: no device is in that group or has those labels",
            Exit.NOT_ALL_RUN,
        )
    open_count = sum(each.verdict not in OVER for each in report.devices)
    if open_count:
        raise CommandFailed(
            f"after {wait_s:g} s {open_count} of {words.devices(len(report.devices))} not done: "
            + "; ".join(each.sentence for each in report.devices if each.verdict not in OVER)[:500],
            Exit.STILL_OPEN,
        )
    if report.running_count < report.targeted_count:
        raise CommandFailed(
            f"it does not run on {report.targeted_count - report.running_count} of "
            f"{words.devices(report.targeted_count)}",
            Exit.NOT_ALL_RUN,
        )


def _named(devices: tuple[str, ...]) -> str:
    if not devices:
        return "no device: nobody is in that group or has those labels yet"
    if len(devices) <= 5:  # noqa: PLR2004 - one line
        return ", ".join(devices)
    return f"{len(devices)} devices"
