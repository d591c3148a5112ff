import json
import re
from pathlib import Path
from typing import Any

import pytest

from hub.export.names import ALL, label

DASHBOARDS = sorted((Path(__file__).parents[3] / "examples" / "grafana").glob("*.json"))
LABELS = {each.prometheus: {label(a) for a in each.attributes} for each in ALL}


def expressions(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each expression with its legend; a variable's query has none."""
    found = [
        (target["expr"], target["legendFormat"])
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
            assert asked is not None, variable["query"]
            found.append((f'{asked[1]}{{{asked[2]}="x"}}', ""))
    return found


def test_there_is_a_dashboard() -> None:
    assert DASHBOARDS


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_names_only_measures_and_labels_that_are_exported(path: Path) -> None:
    for expression, legend in expressions(json.loads(path.read_text())):
        measures = re.findall(r"\bfleet_\w+", expression)
        assert measures, expression
        named = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        named |= set(re.findall(r"{{(\w+)}}", legend))
        for measure in measures:
            assert measure in LABELS, expression
            assert named <= LABELS[measure], expression


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_have_ids_of_their_own_and_do_not_overlap(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
