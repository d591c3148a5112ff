import msgspec
import pytest

from hub import answers
from tests.hub.cli.told import SIX, answer, device_json, fleet_json, report_json, report_of


def test_a_report_arrives_as_the_hub_worked_it_out() -> None:
    assert answer().report() == report_of(*SIX)


def test_the_answers_of_the_hub_fit_what_its_clients_read() -> None:
    fleet = msgspec.convert(fleet_json(), answers.Fleet)
    device = msgspec.convert(device_json(), answers.Device)
    assert fleet.adoption[0].proven_count == 3
    assert fleet.deployments[0].where == "site=s7"
    assert device.settings[0].effective == {"level": 3}
    assert device.deployments[0].reason == "health_failed"


def test_what_a_newer_hub_says_besides_is_ignored() -> None:
    told = report_json() | {"mood": "cheerful"}
    assert msgspec.convert(told, answers.Report) == answer()


def test_an_answer_without_what_matters_is_no_answer() -> None:
    told = report_json()
    del told["verdicts"]
    with pytest.raises(msgspec.ValidationError, match="verdicts"):
        msgspec.convert(told, answers.Report)
