"""What a device measures of itself: from trees like those of devices, and from this machine."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent.measures import Measures
from agent.vitals import Vitals, boot_reason, lock_waits_s, metric_of

CGROUP = "sys/fs/cgroup/system.slice/pump-control.service"


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def board(root: Path, *, busy: int, idle: int, sectors: int, began: int = 900) -> None:
    """A Raspberry Pi's files after so much work."""
    write(
        root,
        **{
            "proc/stat": f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3 4\nintr 1\n",
            "proc/meminfo": "MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable:  250 kB\n",
            "sys/block/mmcblk0/stat": f"1 2 3 4 5 6 {sectors} 8 9 10 11\n",
            "sys/block/loop0/stat": "1 2 3 4 5 6 999999 8 9 10 11\n",
            "sys/class/thermal/thermal_zone0/temp": "61234\n",
            "sys/class/thermal/cooling_device0/type": "fan\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50004\n",
            f"{CGROUP}/cpu.stat": f"usage_usec {busy * 10_000}\nuser_usec 1\n",
            f"{CGROUP}/memory.current": "5000000\n",
            f"{CGROUP}/cgroup.procs": "71\n72\n",
            "proc/71/stat": f"71 (a (b) c) S {' '.join(['0'] * 18)} {began} 0 0\n",
            "proc/72/stat": f"72 (d) S {' '.join(['0'] * 18)} {began + 5} 0 0\n",
        },
    )


def rows(measures: Measures) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in measures.rows()}


def test_two_samples_of_a_board_tell_everything(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path, tmp_path, ("pump-control",))
    measures = Measures()
    board(tmp_path, busy=100, idle=900, sectors=1000)
    assert vitals.sample(measures, 100.0) == 0
    board(tmp_path, busy=150, idle=1050, sectors=1008)
    assert vitals.sample(measures, 110.0) == 0
    found = rows(measures)
    assert found["device.cpu_ratio"]["total"] == pytest.approx(0.25)
    assert found["device.memory_used_ratio"]["total"] == pytest.approx(1.5)
    assert found["device.disk_written_bytes"]["total"] == 8 * 512
    assert found["device.temperature_c"]["total"] == pytest.approx(2 * 61.234)
    assert found["device.throttled_s"]["total"] == 10.0
    assert found["service.pump_control.cpu_ratio"]["total"] == pytest.approx(0.05)
    assert found["service.pump_control.memory_bytes"]["count"] == 2
    assert found["service.pump_control.restarts"]["total"] == 0
    assert 0 <= found["device.disk_used_ratio"]["total"] <= 1
    assert set(found) == {
        "device.cpu_ratio",
        "device.memory_used_ratio",
        "device.disk_used_ratio",
        "device.disk_written_bytes",
        "device.temperature_c",
        "device.throttled_s",
        "service.pump_control.cpu_ratio",
        "service.pump_control.memory_bytes",
        "service.pump_control.restarts",
    }


def test_a_service_whose_oldest_process_is_another_one_has_restarted(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path, tmp_path, ("pump-control.service",))
    measures = Measures()
    for number, began in enumerate((900, 900, 1700, 1700)):
        board(tmp_path, busy=100, idle=900, sectors=0, began=began)
        assert vitals.sample(measures, 10.0 * number) == (number == 2)
    assert rows(measures)["service.pump_control.restarts"]["total"] == 1


def test_a_device_without_any_of_it_measures_its_disk_alone(tmp_path: Path) -> None:
    measures = Measures()
    vitals = Vitals(tmp_path, tmp_path, ("pump-control",))
    vitals.sample(measures, 0.0)
    vitals.sample(measures, 1.0)
    assert set(rows(measures)) == {"device.disk_used_ratio"}


def test_files_full_of_rubbish_measure_nothing_and_break_nothing(tmp_path: Path) -> None:
    board(tmp_path, busy=1, idle=1, sectors=1)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff (x) rubbish\n: :\n\0")
    measures = Measures()
    vitals = Vitals(tmp_path, tmp_path, ("pump-control",))
    vitals.sample(measures, 0.0)
    vitals.sample(measures, 1.0)
    assert set(rows(measures)) == {"device.disk_used_ratio"}


def test_this_machine_can_be_measured(tmp_path: Path) -> None:
    vitals = Vitals(disk=tmp_path)
    measures = Measures()
    ticks = Path("/proc/stat").read_text().partition("\n")[0]
    vitals.sample(measures, 0.0)
    while Path("/proc/stat").read_text().partition("\n")[0] == ticks:
        pass  # the kernel's clock of ticks has to move
    vitals.sample(measures, 1.0)
    found = rows(measures)
    assert 0 <= found["device.cpu_ratio"]["total"] <= 1
    assert 0 < found["device.memory_used_ratio"]["total"] < 2


def test_why_a_device_started_is_told_by_watchdog_pstore_or_the_end_before(tmp_path: Path) -> None:
    assert boot_reason(tmp_path, was_stopped=True) == "ordered"
    assert boot_reason(tmp_path, was_stopped=False) == "lost"
    write(tmp_path, **{"sys/fs/pstore/dmesg-ramoops-0": "Oops"})
    assert boot_reason(tmp_path, was_stopped=True) == "panic"
    write(tmp_path, **{"sys/class/watchdog/watchdog0/bootstatus": "32\n"})
    assert boot_reason(tmp_path, was_stopped=True) == "watchdog"


def test_the_wait_for_a_lock_is_measured_and_nothing_is_made_or_written(tmp_path: Path) -> None:
    path, held, absent = tmp_path / "a.db", tmp_path / "b.db", tmp_path / "c.db"
    for each in (path, held):
        with sqlite3.connect(each) as connection:
            connection.execute("CREATE TABLE t (a)")
        connection.close()
    before = path.read_bytes()
    holder = sqlite3.connect(held, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    found = lock_waits_s({"free": path, "held": held, "absent": absent, "folder": tmp_path})
    holder.close()
    assert set(found) == {"free", "held"}
    assert found["held"] is None
    assert found["free"] is not None
    assert path.read_bytes() == before
    assert not absent.exists()


def test_a_unit_has_a_name_that_a_metric_can_have() -> None:
    assert metric_of("Pump-Control@1.service") == "pump_control_1"
