"""A device that runs Debian's SWUpdate: slots in files, updates signed by a CA of the tests."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from firmware_hooks.contract import Order
from firmware_hooks.swupdate import SwupdateInstaller
from sync.manifest import Artifact, Health, Manifest
from tests.fakes.firmware import BOARDS
from tests.fakes.write_log import PATH, run
from tests.firmware_hooks.slots import image, make_device

BOARD = "tryboot"

IMAGE = '{{ filename = "root.img"; device = "{path}"; type = "raw"; sha256 = "{sha256}"; }}'
DESCRIPTION = """software = {{
  version = "{version}";
  hardware-compatibility = [ "1.0" ];
  stable = {{
    a: {{ images: ( {a} ); }};
    b: {{ images: ( {b} ); }};
  }};
}};
"""


def require_swupdate() -> None:
    for program in ("swupdate", "cpio", "openssl", "flock"):
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not installed (Debian package {program})")


def make_authority(folder: Path) -> Path:
    """Make a certificate that SWUpdate takes for one that signs updates; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ca.pem").exists():
        run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"),
            *("-subj", "/CN=test", "-keyout", folder / "ca.key", "-out", folder / "ca.pem"),
            *("-addext", "extendedKeyUsage=emailProtection"),
        )
    return folder


def make_update(
    authority: Path, home: Path, version: str, *, slots: tuple[str, str] = ("slot_a", "slot_b")
) -> bytes:
    """Return an update file for the slots of the device in `home`, the same bytes each time."""
    name = hashlib.sha256(f"{home} {version} {slots}".encode()).hexdigest()
    kept = authority / f"{name}.swu"
    if not kept.exists():
        tree = authority / name
        tree.mkdir()
        content = image(version)
        (tree / "root.img").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        a, b = (IMAGE.format(path=home / slot, sha256=sha256) for slot in slots)
        (tree / "sw-description").write_text(DESCRIPTION.format(version=f"{version}.0", a=a, b=b))
        run(
            *("openssl", "cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER"),
            *("-in", tree / "sw-description", "-out", tree / "sw-description.sig"),
            *("-signer", authority / "ca.pem", "-inkey", authority / "ca.key"),
        )
        packed = subprocess.run(
            ["cpio", "-o", "-H", "crc", "--quiet"],
            input=b"sw-description\nsw-description.sig\nroot.img\n",
            capture_output=True,
            check=True,
            cwd=tree,
        ).stdout
        kept.write_bytes(packed)
    return kept.read_bytes()


def order(folder: Path, content: bytes, version: str = "2") -> Order:
    path = folder / f"update-{version}"
    path.write_bytes(content)
    artifact = Artifact(
        name="system.swu", sha256=hashlib.sha256(content).hexdigest(), length_bytes=len(content)
    )
    manifest = Manifest(
        component="lamp",
        version=version,
        installer="swupdate",
        artifacts=(artifact,),
        health=Health(command=("true",)),
    )
    return Order(manifest, manifest.digest(), {artifact.name: path}, 10_000_000)


def installer(home: Path, authority: Path, **more: str | float | bool) -> SwupdateInstaller:
    return SwupdateInstaller(
        "lamp",
        home / "install",
        {
            "boot": BOARD,
            "slot_a": str(home / "slot_a"),
            "slot_b": str(home / "slot_b"),
            "certificate": str(authority / "ca.pem"),
            "hardware": "lamp:1.0",
            **BOARDS[BOARD](home).options,
            **more,
        },
    )


__all__ = [
    "BOARD",
    "installer",
    "make_authority",
    "make_device",
    "make_update",
    "order",
    "require_swupdate",
]
