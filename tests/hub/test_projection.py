"""The tables for queries are a pure function of the documents, whatever happened before."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.projection import row_of
from hub.store import projection
from hub.store.database import save_number
from sync.records import Conflict, Local, Running, encode
from sync.replica import values_of
from tests.fakes.fleet import FleetDevice, fact
from tests.hub.core import Core, own, running

NAMES = ("d1", "d2")


def _without(ending: str, values: Mapping[str, bytes]) -> dict[str, bytes]:
    return {key: value for key, value in values.items() if not key.endswith(ending)}


KEYS = ("k1", "k2")

VALUES = st.one_of(
    st.integers(0, 3).map(lambda n: next(iter(fact("x", n).values()))),
    st.integers(1, 5).map(lambda n: encode(Local(n, f"{n}"))),
    st.just(encode(Conflict(1, "1", "2", "2", "desired"))),
    st.booleans().map(lambda ok: encode(Running("1.0", bytes(32), b"boot-1", 5, ok))),
    st.binary(max_size=6),
)

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.sampled_from(NAMES),
            st.dictionaries(
                st.tuples(st.sampled_from(("s/", "v/", "c/", "x/", "q/")), st.sampled_from(KEYS)),
                VALUES,
                min_size=1,
                max_size=4,
            ),
        ),
        st.tuples(st.just("ack"), st.sampled_from(NAMES), st.sampled_from("DVIHKBF")),
        st.tuples(st.just("forget"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
        st.tuples(st.just("restart"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("roll back"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("quiet write"), st.sampled_from(NAMES), st.sampled_from(KEYS)),
    ),
    max_size=25,
)


def _play(
    core: Core, devices: dict[str, FleetDevice], steps: list[tuple[str, str, object]]
) -> None:
    for device in devices.values():
        device.write(fact("class", "lamp"), core.now.mono_s)
        core.connect(device)
    old = {name: device.author.holding() for name, device in devices.items()}
    for what, name, thing in steps:
        device = devices[name]
        match what, thing:
            case "write", dict():
                entries = {prefix + key: value for (prefix, key), value in thing.items()}
                core.talk(device, device.write(entries, core.now.mono_s))
            case "ack", str():
                core.talk(device, device.write(device.ack("dsome", thing), core.now.mono_s))
            case "forget", str():
                device.author._prune = partial(_without, thing)
                device.author.reset()
                core.connect(device)
            case "restart", _:
                device.restart()
                core.connect(device)
            case "roll back", _:
                device.author = device._new_author(old[name])
                device.written_acks = {k for k in device.author.values() if k.startswith("a/")}
                device.restart()
                core.connect(device)
                old[name] = device.author.holding()
            case "quiet write", str():
                device.write({f"s/{thing}": fact("x", "quiet")["s/x"]}, core.now.mono_s)
        core.pass_time(1)
    for device in devices.values():
        core.connect(device)


@given(STEPS)
@settings(max_examples=60)
def test_the_projection_equals_its_rebuild_after_any_history(
    steps: list[tuple[str, str, object]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "hub") as core:
        devices = {name: FleetDevice(name, number) for number, name in enumerate(NAMES)}
        _play(core, devices, steps)
        live = core.database.transact(projection.dump)
        core.database.transact(projection.rebuild)
        assert core.database.transact(projection.dump) == live
        for device in devices.values():
            held = core.held(own(device.name))
            assert device.is_settled()
            assert held is None or values_of(held) == device.author.values()
            seen = {
                f"a/{deployment}/{stage}"
                for deployment, stage in core.rows(
                    "SELECT deployment, stage FROM seen JOIN device ON n = device WHERE id = ?",
                    device.name,
                )
            }
            live_acks = {key for key in device.author.values() if key.startswith("a/")}
            assert device.confirmed_acks | live_acks <= seen
        refusals = core.rows("SELECT device, code, detail FROM offence WHERE code <> 'bad_record'")
        assert refusals == []


def test_a_projection_of_an_older_version_is_built_anew_at_the_next_start(tmp_path: Path) -> None:
    with running(tmp_path / "hub") as core:
        device = FleetDevice("d1", 1)
        device.write(fact("class", "lamp"), core.now.mono_s)
        core.connect(device)
        core.database.transact(lambda db: db.execute("DELETE FROM p_fact"))
        core.database.transact(lambda db: save_number(db, "projection_version", 0))
    with running(tmp_path / "hub") as core:
        assert core.rows("SELECT name, value FROM p_fact") == [("class", '"lamp"')]


def test_a_row_is_made_from_one_key_alone() -> None:
    (entry,) = fact("site", "s7").values()
    assert row_of(3, "s/site", entry).columns == (3, "site", '"s7"')
    assert row_of(3, "s/site", None) == ("p_fact", (3, "site"), None, "")
    assert row_of(3, "s/site", b"\xc1").columns is None
    assert row_of(3, "s/site", b"\xc1").fault
    assert row_of(3, "d/mode", entry).table == ""
