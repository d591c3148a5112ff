"""Plugins that thin-edge.io publishes, as they are published.

Debian has none of them and this project carries no code of others, so these tests run where
`FIELDFARE_SM_PLUGINS` names a folder that holds them. Now: `tedge-archive-plugin`.
"""

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.sm_plugin import SmPluginInstaller
from sync.stages import Reason
from tests.firmware_hooks.releases import order_of, put

PUBLISHED = Path(os.environ.get("FIELDFARE_SM_PLUGINS", "/nowhere"))
ARCHIVES = "tedge-archive-plugin"

pytestmark = [
    pytest.mark.skipif(
        not os.access(PUBLISHED / ARCHIVES, os.X_OK),
        reason=f"FIELDFARE_SM_PLUGINS names no folder with {ARCHIVES}",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="gives the plugin an /etc of its own: needs root"),
]

# The plugin reads its settings from /etc and has no option for another place.
STARTER = """#!/bin/sh
exec unshare --mount --propagation private sh -c '
    mount -t overlay overlay -o "lowerdir=$0/etc:/etc" /etc && exec "$@"
' {folder} {published}/{plugin} "$@"
"""


def archive(files: Mapping[str, str]) -> bytes:
    """Return files as the plugin wants them: a tar in gzip, names beginning with `./`."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(text)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


class Device:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "data"
        settings = folder / "etc" / ARCHIVES / "env"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"ROOT_DIR={self.root}\nARCHIVE_SOFTWARE_DIR={self.root}/.{ARCHIVES}\n")
        settings.chmod(0o644)
        starter = folder / "plugins" / "archive"
        starter.parent.mkdir()
        starter.write_text(STARTER.format(folder=folder, published=PUBLISHED, plugin=ARCHIVES))
        starter.chmod(0o755)

    def installer(self) -> SmPluginInstaller:
        return SmPluginInstaller(
            "lamp", self.folder / "install", {"plugins": f"{self.folder}/plugins"}
        )

    def order(self, version: str, wanted: str, files: Mapping[str, bytes]) -> Order:
        listed = "".join(line.strip().replace(" ", "\t") + "\n" for line in wanted.split(";"))
        return order_of(
            self.folder,
            version,
            {"modules.tsv": listed.encode(), **files},
            installer="sm-plugin",
            parameters={"plugin": "archive"},
        )

    def lamp(self, version: str, *, before: str = "", script: str = "true") -> Order:
        files = {
            "bin/lamp": f"echo {version}\n",
            "SCRIPTS/postinst": f"#!/bin/sh\n{script}\n",
            f"share/{version}": "only here\n",
        }
        removed = f"remove lamp {before}; " if before else ""
        return self.order(
            version, f"{removed}install lamp {version} lamp.tar.gz", {"lamp.tar.gz": archive(files)}
        )

    def has(self) -> dict[str, str]:
        """Return the files that there are for applications."""
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and f".{ARCHIVES}" not in path.parts
        }


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


FIRST = {"bin/lamp": "echo 1\n", "share/1": "only here\n"}
SECOND = {"bin/lamp": "echo 2\n", "share/2": "only here\n"}


def test_the_published_plugin_installs_a_release_and_takes_it_back(device: Device) -> None:
    old = put(device.installer(), device.lamp("1"))
    assert device.has() == FIRST
    new = device.lamp("2", before="1")
    device.installer().stage(new)
    device.installer().activate(new.digest)
    device.installer().check_trial(new.digest)
    assert device.has() == SECOND

    assert device.installer().roll_back(new.digest) == old

    assert device.has() == FIRST
    assert device.installer().running() == old


def test_the_first_release_leaves_nothing_when_it_is_taken_back(device: Device) -> None:
    order = device.lamp("1")
    device.installer().stage(order)
    device.installer().activate(order.digest)

    assert device.installer().roll_back(order.digest) is None

    assert device.has() == {}


def test_what_the_published_plugin_cannot_unpack_ends_the_install_and_the_old_is_back(
    device: Device,
) -> None:
    old = put(device.installer(), device.lamp("1"))
    new = device.order("2", "remove lamp 1; install lamp 2 lamp.zip", {"lamp.zip": b"no archive"})
    device.installer().stage(new)

    with pytest.raises(InstallerError) as failed:
        device.installer().activate(new.digest)

    assert failed.value.reason == Reason.INSTALLER_FAILED
    assert "Unknown file format" in failed.value.detail
    assert device.installer().roll_back(new.digest) == old
    assert device.has() == FIRST


def test_files_that_somebody_removed_from_the_plugins_books_end_the_trial(device: Device) -> None:
    order = device.lamp("1")
    device.installer().stage(order)
    device.installer().activate(order.digest)
    (device.root / f".{ARCHIVES}" / "lamp@1" / "package").unlink()

    with pytest.raises(InstallerError, match="the plugin lists lamp as"):
        device.installer().check_trial(order.digest)


def test_several_modules_stop_at_the_plugins_own_list_and_what_was_there_stays(
    device: Device,
) -> None:
    """It lists modules without an end of line between them, so none can be told from the next."""
    old = put(device.installer(), device.lamp("1"))
    two = device.order(
        "2",
        "install a 1 a.tar.gz; install b 1 b.tar.gz",
        {f"{name}.tar.gz": archive({name: name}) for name in "ab"},
    )
    device.installer().stage(two)

    with pytest.raises(InstallerError, match="the plugin lists"):
        device.installer().activate(two.digest)

    assert device.installer().running() in (None, old)
    assert FIRST.items() <= device.has().items()
