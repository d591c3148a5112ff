"""The modules and the client that Debian ships in `mender-client`, and `mender-artifact` for both.

The client gets a view of its own of the two folders that it looks for modules and its settings in;
nothing else of the machine is touched.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from firmware_hooks.contract import InstallerError, Order
from firmware_hooks.mender_module import MenderModuleInstaller
from hub.mender.release import mender_release
from sync.stages import Reason
from tests.firmware_hooks.podman import RUN_OPTIONS, podman

MODULES: Final = Path("/usr/share/mender/modules/v3")
SETTINGS: Final = Path("/etc/mender")
MENDER: Final = shutil.which("mender")
MENDER_ARTIFACT: Final = shutil.which("mender-artifact")

needs_modules = pytest.mark.skipif(
    not (MODULES / "single-file").exists() or MENDER_ARTIFACT is None,
    reason="mender-client and mender-artifact are not installed",
)


@cache
def can_be_shown_other_folders() -> bool:
    if MENDER is None or not SETTINGS.is_dir() or shutil.which("unshare") is None:
        return False
    words = ["unshare", "-rm", "mount", "--bind", "/tmp", str(SETTINGS)]  # noqa: S108 - see above
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def write(folder: Path, kind: str, name: str, files: Mapping[str, bytes], *words: str) -> Path:
    """Let the real tool write an artifact."""
    assert MENDER_ARTIFACT is not None
    inputs = folder / f"inputs-{name}"
    inputs.mkdir(exist_ok=True)
    file = folder / f"{name}.mender"
    command = [MENDER_ARTIFACT, "write", "module-image", "-T", kind, "-n", name, "-t", "bench"]
    for each, content in files.items():
        (inputs / each).write_bytes(content)
        command += ["-f", str(inputs / each)]
    subprocess.run([*command, "-o", str(file), *words], check=True, capture_output=True)
    return file


@contextmanager
def order_of(file: Path) -> Iterator[Order]:
    fields = {"component": "lamp", "health": {"command": ["true"]}}
    with mender_release(file, fields) as made:
        digest = made.manifest.digest()
        yield Order(made.manifest, digest, made.artifacts, 10_000_000)


def start(installer: MenderModuleInstaller, file: Path) -> bytes:
    with order_of(file) as order:
        installer.stage(order)
    installer.activate(order.digest)
    installer.check_trial(order.digest)
    return order.digest


@pytest.fixture
def installer(tmp_path: Path) -> MenderModuleInstaller:
    return MenderModuleInstaller("lamp", tmp_path / "install")


# The modules.


@needs_modules
def test_single_file_puts_its_file_into_place_and_back(
    tmp_path: Path, installer: MenderModuleInstaller
) -> None:
    place = tmp_path / "opt"

    def files(content: bytes) -> dict[str, bytes]:
        return {
            "dest_dir": f"{place}\n".encode(),
            "filename": b"lamp.conf\n",
            "permissions": b"640\n",
            "lamp.conf": content,
        }

    old = start(installer, write(tmp_path, "single-file", "one", files(b"first")))
    installer.commit(old)
    assert (place / "lamp.conf").read_bytes() == b"first"
    assert (place / "lamp.conf").stat().st_mode & 0o777 == 0o640
    new = start(installer, write(tmp_path, "single-file", "two", files(b"second")))
    assert (place / "lamp.conf").read_bytes() == b"second"

    assert installer.roll_back(new) == old

    assert (place / "lamp.conf").read_bytes() == b"first"
    assert installer.running() == old


@needs_modules
def test_directory_puts_its_tree_into_place_and_back(
    tmp_path: Path, installer: MenderModuleInstaller
) -> None:
    place = tmp_path / "opt"

    def files(name: str) -> dict[str, bytes]:
        tree = tmp_path / f"tree-{name}"
        tree.mkdir()
        (tree / name).write_text(name)
        subprocess.run(["tar", "-cf", f"{tree}.tar", "-C", tree, "."], check=True)
        packed = Path(f"{tree}.tar").read_bytes()
        return {"dest_dir": f"{place}\n".encode(), "update.tar": packed}

    old = start(installer, write(tmp_path, "directory", "one", files("first")))
    installer.commit(old)
    new = start(installer, write(tmp_path, "directory", "two", files("second")))
    assert [path.name for path in place.iterdir()] == ["second"]

    assert installer.roll_back(new) == old

    assert [path.name for path in place.iterdir()] == ["first"]


@needs_modules
def test_script_runs_what_it_is_given_and_cannot_go_back(
    tmp_path: Path, installer: MenderModuleInstaller
) -> None:
    script = f"#!/bin/sh\necho done >> {tmp_path}/done\n".encode()
    new = start(installer, write(tmp_path, "script", "one", {"run.sh": script}))

    assert (tmp_path / "done").read_text() == "done\n"
    with pytest.raises(InstallerError, match="script cannot go back") as stuck:
        installer.roll_back(new)
    assert stuck.value.reason == Reason.ROLLBACK_FAILED


@needs_modules
def test_a_script_that_fails_is_told_with_what_it_said(
    tmp_path: Path, installer: MenderModuleInstaller
) -> None:
    script = b"#!/bin/sh\necho 'no lamp is there' >&2\nexit 7\n"

    with pytest.raises(InstallerError, match="ArtifactInstall ended with 7: no lamp is there"):
        start(installer, write(tmp_path, "script", "one", {"run.sh": script}))


@needs_modules
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed")
def test_deb_installs_a_package_onto_a_root_of_its_own(
    tmp_path: Path, installer: MenderModuleInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: lamp\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <no@example.com>\n"
        "Description: a lamp\n"
    )
    (package / "opt").mkdir()
    (package / "opt/lamp").write_text("warm")
    subprocess.run(["dpkg-deb", "-b", package, tmp_path / "lamp.deb"], check=True)
    root = tmp_path / "root"
    for folder in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    monkeypatch.setenv("DPKG_ROOT", str(root))
    monkeypatch.setenv("DPKG_FORCE", "not-root,script-chrootless,bad-path")

    digest = start(
        installer, write(tmp_path, "deb", "one", {"lamp.deb": (tmp_path / "lamp.deb").read_bytes()})
    )
    installer.commit(digest)

    assert (root / "opt/lamp").read_text() == "warm"
    assert "Package: lamp" in (root / "var/lib/dpkg/status").read_text()


@needs_modules
def test_docker_says_itself_what_it_lacks_and_nothing_of_the_release_is_left(
    tmp_path: Path, installer: MenderModuleInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meta.json").write_text('{"containers": ["lamp"]}')
    file = write(tmp_path, "docker", "one", {}, "-m", str(tmp_path / "meta.json"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(InstallerError, match="Must have docker installed"):
        start(installer, file)

    assert not list((tmp_path / "install/lamp").rglob("tree"))


@needs_modules
@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_docker_starts_containers_and_goes_back_to_those_before(
    tmp_path: Path, installer: MenderModuleInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """podman stands in for docker, as Debian's package podman-docker lets it."""
    with podman() as runs:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/docker").write_text(f'#!/bin/sh\nexec {shlex.join(runs.words)} "$@"\n')
        (tmp_path / "bin/docker").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

        def artifact(version: str) -> Path:
            image = runs.image(version, tmp_path / f"image-{version}")
            about = {"containers": [f"oci-archive:{image}"], "run_args": RUN_OPTIONS}
            (tmp_path / "meta.json").write_text(json.dumps(about))
            return write(tmp_path, "docker", version, {}, "-m", str(tmp_path / "meta.json"))

        def shown() -> list[str]:
            return [runs("exec", each, "cat", "/version") for each in runs("ps", "-q").split()]

        old = start(installer, artifact("one"))
        installer.commit(old)
        assert shown() == ["one"]
        new = start(installer, artifact("two"))
        assert shown() == ["two"]

        assert installer.roll_back(new) == old

        assert shown() == ["one"]


# The client, beside ours.

TRACER: Final = """#!/bin/sh
echo "CALL $1" >> "$TRACE/log"
case "$1" in
SupportsRollback) echo Yes ;;
NeedsArtifactReboot) echo "$TRACE_REBOOT" ;;
Download)
    if [ "$TRACE_STREAMS" = yes ]; then
        while true; do
            name=$(cat stream-next)
            if [ -z "$name" ]; then break; fi
            cat "$name" > "tmp/$(basename "$name")"
        done
    fi ;;
ArtifactInstall)
    mkdir -p "$TRACE/tree"
    for each in version current_* header/* files/* tmp/*; do
        if [ -f "$each" ]; then cp "$each" "$TRACE/tree/$(echo "$each" | tr / %)"; fi
    done ;;
esac
if [ "$TRACE_FAIL" = "$1" ]; then exit 3; fi
exit 0
"""

SCRIPT: Final = b'#!/bin/sh\necho "SCRIPT $(basename "$0")" >> "$TRACE/log"\n'

STATES: Final = ("Install", "Reboot", "Commit", "Rollback", "RollbackReboot", "Failure")


class Trace:
    """What one of the two has called, and the tree that the module saw."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def calls(self) -> list[str]:
        """Return the calls, without the one that came to the protocol after this client."""
        lines = (self.folder / "log").read_text().splitlines()
        return [line for line in lines if line != "CALL ProvidePayloadFileSizes"]

    def tree(self) -> dict[str, object]:
        """Return the tree, where it is no matter whether JSON is spaced and text ends a line."""
        found: dict[str, object] = {}
        for path in (self.folder / "tree").iterdir():
            content = path.read_bytes()
            is_json = re.search(r"%(header-info|type-info|meta-data)$", path.name)
            found[path.name] = (
                {name: value for name, value in json.loads(content).items() if value}
                if is_json and content != b"null"
                else content.removesuffix(b"\n")
            )
        return found


@pytest.mark.skipif(not can_be_shown_other_folders(), reason="mender cannot be run by itself here")
@pytest.mark.parametrize("fails", ["", "Download", "ArtifactInstall"])
@pytest.mark.parametrize("streams", ["yes", "no"])
def test_the_client_and_ours_make_the_same_calls_and_show_the_module_the_same_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, streams: str
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/trace").write_text(TRACER)
    (tmp_path / "modules/trace").chmod(0o755)
    (tmp_path / "meta.json").write_text('{"lamp": "warm"}')
    words = ["-m", f"{tmp_path}/meta.json"]
    for state in STATES:
        for when in ("Enter", "Leave", "Error"):
            script = tmp_path / f"Artifact{state}_{when}_00"
            script.write_bytes(SCRIPT)
            words += ["-s", str(script)]
    files = {"first": b"1" * 200_000, "second": b"2"}
    file = write(tmp_path, "trace", "release-1", files, *words)
    monkeypatch.setenv("TRACE_STREAMS", streams)
    monkeypatch.setenv("TRACE_FAIL", fails)
    monkeypatch.setenv("TRACE_REBOOT", "No")
    theirs, ours = Trace(tmp_path / "theirs"), Trace(tmp_path / "ours")

    monkeypatch.setenv("TRACE", str(theirs.folder))
    client(tmp_path, "install", str(file))
    client(tmp_path, "commit")
    monkeypatch.setenv("TRACE", str(ours.folder))
    options = {"modules_dir": f"{tmp_path}/modules", "scripts_dir": f"{tmp_path}/none"}
    through_ours(MenderModuleInstaller("lamp", tmp_path / "install", options), file)

    assert ours.calls() == theirs.calls()
    assert ("CALL Cleanup" if fails else "SCRIPT ArtifactCommit_Leave_00") in ours.calls()
    if fails != "Download":
        assert ours.tree() == {**theirs.tree(), "current_artifact_name": b"unknown"}
        assert theirs.tree()["current_artifact_name"] == b"factory"
        assert theirs.tree()[("tmp%" if streams == "yes" else "files%") + "first"] == b"1" * 200_000


def client(folder: Path, *words: str) -> None:
    """Run the real client on a device of its own; it may fail, as the artifact says."""
    assert MENDER is not None
    for name, content in {
        "data/device_type": "device_type=bench\n",
        "etc/artifact_info": "artifact_name=factory\n",
        "etc/mender.conf": "{}",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    binds = f"mount --bind {folder}/modules {MODULES} && mount --bind {folder}/etc {SETTINGS}"
    mender = f'exec {MENDER} -c {folder}/etc/mender.conf -d {folder}/data --no-syslog "$@"'
    subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{binds} && {mender}", "sh", *words],
        capture_output=True,
        env=dict(os.environ),
        timeout=60,
        check=False,
    )


def through_ours(installer: MenderModuleInstaller, file: Path) -> None:
    """Do with an artifact what the agent does."""
    with order_of(file) as order:
        try:
            installer.stage(order)
        except InstallerError:
            return
    try:
        installer.activate(order.digest)
        installer.check_trial(order.digest)
    except InstallerError:
        installer.roll_back(order.digest)
        return
    installer.commit(order.digest)
