import gzip
import hashlib
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from hub.mender import artifact as artifacts
from hub.mender.artifact import BadArtifact, MenderArtifact, read_artifact
from hub.mender.packing import Compression
from hub.mender.signature import BadSignature, sign_manifest
from hub.mender.writer import Draft, write_artifact
from tests.hub.mender.keys import key_pair

FILES: Final = {"dest_dir": b"/opt/app\n", "a-file": bytes(range(256)) * 300, "empty": b""}
SCRIPTS: Final = {
    "ArtifactInstall_Enter_00_check": b"#!/bin/sh\nexit 0\n",
    "ArtifactCommit_Enter_05": b"#!/bin/sh\nexit 21\n",
}


def draft(folder: Path, files: Mapping[str, bytes] = FILES, **more: Any) -> Draft:
    paths = {}
    for at, (name, content) in enumerate(files.items()):
        paths[name] = folder / f"input-{at}"
        paths[name].write_bytes(content)
    fields: dict[str, Any] = {
        "artifact_name": "release-1",
        "device_types": ("beaglebone", "rpi4"),
        "kind": "single-file",
        "files": paths,
        "scripts": SCRIPTS,
        "meta_data": b'{"a": [1]}',
        "provides": {"rootfs-image.single-file.version": "release-1"},
        "depends": {"rootfs-image.version": ["base-1", "base-2"]},
        "clears_provides": ("rootfs-image.single-file.*",),
        "depends_names": ("release-0",),
        "artifact_group": "stable",
        "depends_groups": ("stable", "beta"),
        **more,
    }
    return Draft(**fields)


def written(folder: Path, **more: Any) -> Path:
    file = folder / "release.mender"
    write_artifact(file, draft(folder, **more))
    return file


def read(file: Path, folder: Path, key: bytes | None = None, **more: int) -> MenderArtifact:
    into = folder / "unpacked"
    into.mkdir(exist_ok=True)
    for old in into.iterdir():
        old.unlink()
    return read_artifact(file, into, key=key, **more)


def parts_of(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
        return found


def tar_of(parts: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return output.getvalue()


def pack_again(file: Path, parts: Mapping[str, bytes]) -> Path:
    """Write an artifact of other parts, with a manifest whose sums are right."""
    parts = dict(parts)
    if "header.tar.gz" in parts:
        lines = [
            line
            for line in parts["manifest"].decode().splitlines()
            if not line.endswith("  header.tar.gz")
        ]
        lines.append(f"{hashlib.sha256(parts['header.tar.gz']).hexdigest()}  header.tar.gz")
        parts["manifest"] = ("\n".join(lines) + "\n").encode()
    file.write_bytes(tar_of(parts))
    return file


def with_header(file: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Write an artifact again after a change to its header."""
    parts = parts_of(file)
    inner = file.with_name("header.tar")
    inner.write_bytes(gzip.decompress(parts["header.tar.gz"]))
    header = parts_of(inner)
    change(header)
    parts["header.tar.gz"] = gzip.compress(tar_of(header), mtime=0)
    return pack_again(file, parts)


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("key", [None, "rsa", "ecdsa"])
def test_what_was_written_is_read_as_it_was(
    tmp_path: Path, compression: Compression, key: str | None
) -> None:
    file = tmp_path / "release.mender"
    pair = key_pair(key) if key is not None else None
    given = draft(tmp_path)
    write_artifact(file, given, compression=compression, key=None if pair is None else pair.private)

    found = read(file, tmp_path, key=None if pair is None else pair.public)

    assert found.is_signed == (key is not None)
    assert found.kind == "single-file"
    assert {name: path.read_bytes() for name, path in found.files.items()} == FILES
    assert list(found.files) == list(FILES)
    assert found.scripts == SCRIPTS
    assert found.headers["meta-data"] == b'{"a": [1]}'
    assert found.info.artifact_provides == artifacts.Names("release-1", "stable")
    assert found.info.artifact_depends == artifacts.NamesDepends(
        ["beaglebone", "rpi4"], ["release-0"], ["stable", "beta"]
    )
    assert found.type_info.artifact_depends == {"rootfs-image.version": ["base-1", "base-2"]}
    assert found.type_info.clears_artifact_provides == ["rootfs-image.single-file.*"]


def test_the_same_content_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    for each in Compression:
        write_artifact(tmp_path / "one", draft(tmp_path), compression=each)
        write_artifact(tmp_path / "two", draft(tmp_path), compression=each)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_long_names_are_carried(tmp_path: Path) -> None:
    names = {"x" * 250: b"long", "\N{GREEK SMALL LETTER PI}": b"pi"}

    found = read(written(tmp_path, files=names), tmp_path)

    assert {name: path.read_bytes() for name, path in found.files.items()} == names


# Signatures.


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_signature_of_another_key_or_of_another_kind_is_refused(
    tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "release.mender"
    write_artifact(file, draft(tmp_path), key=key_pair(kind).private)
    other = "ecdsa" if kind == "rsa" else "rsa"

    for key in (key_pair(kind, 1), key_pair(other)):
        with pytest.raises(BadArtifact, match="not signed with this key"):
            read(file, tmp_path, key=key.public)


def test_what_is_not_signed_is_refused_if_a_key_was_given(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="not signed at all"):
        read(written(tmp_path), tmp_path, key=key_pair("rsa").public)


@pytest.mark.parametrize("kind", ["rsa-1024", "ecdsa-384"])
def test_keys_that_are_too_weak_or_of_another_kind_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadSignature, match="neither RSA of at least"):
        sign_manifest(b"", key_pair(kind).private)
    file = tmp_path / "release.mender"
    write_artifact(file, draft(tmp_path), key=key_pair("rsa").private)
    with pytest.raises(BadArtifact, match="neither RSA of at least"):
        read(file, tmp_path, key=key_pair(kind).public)


@pytest.mark.parametrize("signature", [b"", b"?", b"AAAA", b"A" * 88, b"\xff"])
def test_a_signature_that_is_none_is_refused(tmp_path: Path, signature: bytes) -> None:
    file = tmp_path / "release.mender"
    write_artifact(file, draft(tmp_path), key=key_pair("ecdsa").private)
    file.write_bytes(tar_of(parts_of(file) | {"manifest.sig": signature}))

    with pytest.raises(BadArtifact):
        read(file, tmp_path, key=key_pair("ecdsa").public)


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "release.mender"
    write_artifact(file, draft(tmp_path), key=key_pair("rsa").private)

    with pytest.raises(BadArtifact, match="no public key in PEM"):
        read(file, tmp_path, key=b"no key")


# What is refused.


@pytest.mark.parametrize("name", ["version", "header.tar.gz", "data/0000.tar.gz"])
def test_a_part_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path, name: str) -> None:
    file = written(tmp_path)
    other = written(tmp_path / ".", files={**FILES, "dest_dir": b"/etc\n"}, kind="other")
    changed = parts_of(file)[name]
    file = written(tmp_path)
    parts = parts_of(file)
    parts[name] = changed + b"\n" if name == "version" else parts_of(other)[name]
    if name == "header.tar.gz":
        parts[name] = gzip.compress(gzip.decompress(parts[name])[:-512])
    if name == "data/0000.tar.gz":
        inner = {each: content[::-1] + b"x" for each, content in FILES.items()}
        parts[name] = gzip.compress(tar_of(inner))
    file.write_bytes(tar_of(parts))

    with pytest.raises(BadArtifact, match="not what its manifest says"):
        read(file, tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p.pop("version"), "stands where version should"),
        (lambda p: p.pop("manifest"), "stands where manifest should"),
        (lambda p: p.pop("header.tar.gz"), "compressed in a way"),
        (lambda p: p.pop("data/0000.tar.gz"), "ends where"),
        (lambda p: p.update({"data/0001.tar.gz": b""}), "something follows"),
        (lambda p: p.update({"version": b'{"format":"mender","version":2}'}), "version 2"),
        (lambda p: p.update({"version": b"{}"}), "version cannot be understood"),
        (lambda p: p.update({"manifest": b"x" * 300_000}), "at most"),
        (lambda p: p.update({"manifest": b"no sum\n"}), "no sum and name"),
        (lambda p: p.update({"manifest": p["manifest"] * 2}), "twice"),
        (
            lambda p: p.update({"manifest": p["manifest"] + b"0" * 64 + b"  other\n"}),
            "is in its manifest and not in it",
        ),
    ],
)
def test_parts_that_are_missing_odd_or_too_many_are_refused(
    tmp_path: Path, change: Callable[[dict[str, bytes]], object], why: str
) -> None:
    file = written(tmp_path)
    parts = parts_of(file)
    change(parts)
    file.write_bytes(tar_of(parts))

    with pytest.raises(BadArtifact, match=why):
        read(file, tmp_path)


@pytest.mark.parametrize("name", ["manifest-augment", "header-augment.tar.gz"])
def test_augmented_artifacts_are_refused_as_what_they_are(tmp_path: Path, name: str) -> None:
    file = written(tmp_path)
    parts: dict[str, bytes] = {}
    for each, content in parts_of(file).items():
        if each == ("header.tar.gz" if name == "manifest-augment" else "data/0000.tar.gz"):
            parts[name] = b""
        parts[each] = content
    file.write_bytes(tar_of(parts))

    with pytest.raises(BadArtifact, match="augmented"):
        read(file, tmp_path)


INFO: Final = {
    "payloads": [{"type": "single-file"}],
    "artifact_provides": {"artifact_name": "a"},
    "artifact_depends": {"device_type": ["b"]},
}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda h: h.pop("header-info"), "no header-info"),
        (lambda h: h.pop("headers/0000/type-info"), "no type-info"),
        (lambda h: h.update({"header-info": b"{" * 100_000}), "cannot be understood"),
        (lambda h: h.update({"header-info": b"[" * 100_000}), "cannot be understood"),
        (lambda h: h.update({"header-info": b"\xff"}), "cannot be understood"),
        (lambda h: h.update({"header-info": b" " * 2_000_000}), "at most"),
        (lambda h: h.update({"headers/0001/type-info": b"{}"}), "no place there"),
        (lambda h: h.update({"scripts/../../etc/passwd": b""}), "no file name"),
        (lambda h: h.update({"scripts/run": b""}), "no name of a state script"),
        (lambda h: h.update({"scripts/Idle_Enter_00": bytes(5_000_000)}), "at most"),
        (lambda h: h.update({"headers/0000/type-info": b'{"type": "other"}'}), "of type"),
        (
            lambda h: h.update(
                {
                    "header-info": json.dumps(
                        INFO | {"artifact_depends": {"device_type": []}}
                    ).encode()
                }
            ),
            "names no device type",
        ),
        (
            lambda h: h.update({"header-info": json.dumps(INFO | {"payloads": []}).encode()}),
            "0 payloads",
        ),
        (
            lambda h: h.update(
                {"header-info": json.dumps(INFO | {"payloads": [{"type": None}]}).encode()}
            ),
            "of type None",
        ),
        (
            lambda h: h.update(
                {
                    "header-info": json.dumps(
                        INFO | {"artifact_provides": {"artifact_name": "a\nb"}}
                    ).encode()
                }
            ),
            "no name of an artifact",
        ),
    ],
)
def test_headers_that_cannot_be_are_refused(
    tmp_path: Path, change: Callable[[dict[str, bytes]], object], why: str
) -> None:
    file = with_header(written(tmp_path), change)

    with pytest.raises(BadArtifact, match=why):
        read(file, tmp_path)


@pytest.mark.parametrize("kind", ["../single-file", "a/b", ".hidden", "", "x" * 64])
def test_a_type_of_payload_that_leads_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadArtifact, match="no name of an update module"):
        read(written(tmp_path, kind=kind), tmp_path)


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "..", "a\nb", "y" * 256])
def test_a_file_whose_name_leads_elsewhere_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str
) -> None:
    file = written(tmp_path, files={name: b"x"})

    with pytest.raises(BadArtifact):
        read(file, tmp_path)
    assert list((tmp_path / "unpacked").iterdir()) == []


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S"],
)
def test_a_payload_of_anything_but_files_is_refused(tmp_path: Path, kind: bytes) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("dest_dir")
        member.type = kind
        member.linkname = "/etc/passwd"
        tar.addfile(member)
    file = written(tmp_path)
    file.write_bytes(
        tar_of(parts_of(file) | {"data/0000.tar.gz": gzip.compress(output.getvalue())})
    )

    with pytest.raises(BadArtifact, match="no regular file"):
        read(file, tmp_path)


def test_a_payload_that_unpacks_to_more_than_is_allowed_is_refused_before_it_is_on_the_disk(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, files={"zeros": bytes(50_000_000)})
    assert file.stat().st_size < 100_000

    with pytest.raises(BadArtifact, match="more than 1000000 bytes"):
        read(file, tmp_path, bytes_max=1_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").iterdir()) <= 1_000_000


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_a_header_that_unpacks_to_more_than_is_allowed_is_refused(
    tmp_path: Path, compression: str
) -> None:
    bomb = bytes(2 * artifacts.HEADERS_BYTES_MAX)
    pack = gzip.compress if compression == "gz" else lzma.compress
    parts = parts_of(written(tmp_path))
    parts = {
        ("header.tar." + compression if name == "header.tar.gz" else name): content
        for name, content in parts.items()
    }
    header = tar_of({"header-info": b"{}"}) + bomb
    parts["header.tar." + compression] = pack(header)
    file = tmp_path / "bomb.mender"
    file.write_bytes(tar_of(parts))

    with pytest.raises(BadArtifact, match="holds more than"):
        read(file, tmp_path)


@pytest.mark.parametrize("name", ["header.tar.gz", "data/0000.tar.gz"])
def test_bytes_behind_what_is_compressed_are_refused(tmp_path: Path, name: str) -> None:
    file = written(tmp_path)
    parts = parts_of(file)
    parts[name] += b"more"
    pack_again(file, parts)

    with pytest.raises(BadArtifact, match="something follows"):
        read(file, tmp_path)


def test_a_header_that_is_true_to_its_sum_and_not_to_its_format_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    for content in (b"", b"x", gzip.compress(b""), gzip.compress(b"x" * 600), b"\x1f\x8b"):
        pack_again(file, parts_of(file) | {"header.tar.gz": content})
        with pytest.raises(BadArtifact):
            read(file, tmp_path)


@pytest.mark.parametrize("compression", list(Compression))
def test_of_thousands_of_spoilt_artifacts_none_crashes_the_reader_or_passes_for_another(
    tmp_path: Path, compression: Compression
) -> None:
    """Bytes that nothing reads (times, owners) may differ; what is read must be what was written.

    Of the headers that are summed as they lie, nothing may differ at all.
    """
    file = tmp_path / "release.mender"
    pair = key_pair("ecdsa")
    write_artifact(file, draft(tmp_path), compression=compression, key=pair.private)
    whole = file.read_bytes()
    good = read(file, tmp_path, key=pair.public)
    content = {name: path.read_bytes() for name, path in good.files.items()}
    dice = random.Random(f"{compression}")
    passed = 0
    for _ in range(1500):
        file.write_bytes(_spoilt(whole, dice))
        try:
            found = read(file, tmp_path, key=pair.public)
        except BadArtifact:
            continue
        passed += 1
        assert (found.info, found.type_info, found.scripts) == (
            good.info,
            good.type_info,
            good.scripts,
        )
        assert {name: path.read_bytes() for name, path in found.files.items()} == content
    assert passed < 1200


def test_of_thousands_of_spoilt_parts_with_right_sums_none_crashes_the_reader(
    tmp_path: Path,
) -> None:
    file = written(tmp_path)
    parts = parts_of(file)
    inner = {name: gzip.decompress(parts[name]) for name in ("header.tar.gz", "data/0000.tar.gz")}
    dice = random.Random("parts")
    refused = 0
    for at in range(1500):
        name = dice.choice(sorted(inner))
        content = inner[name]
        spot = content.find(b'{"')
        if at % 3 == 0 and spot > 0:  # headers in JSON: what a parser trips over
            changed = bytearray(content)
            for _ in range(dice.randrange(1, 5)):
                changed[dice.randrange(spot, spot + 150)] = dice.choice(b'"{}[]:,0189\\u\xff\0 ')
            content = bytes(changed)
        else:
            content = _spoilt(content, dice)
        pack_again(file, parts | {name: gzip.compress(content, 1)})
        try:
            read(file, tmp_path)
        except BadArtifact:
            refused += 1
    assert 1000 < refused < 1500


def _spoilt(whole: bytes, dice: random.Random) -> bytes:
    spoilt = bytearray(whole)
    way = dice.randrange(5)
    at = dice.randrange(len(spoilt))
    if way == 0:
        spoilt[at] ^= 1 << dice.randrange(8)
    elif way == 1:
        for _ in range(dice.randrange(1, 30)):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
    elif way == 2:
        del spoilt[at:]
    elif way == 3:
        del spoilt[at : at + dice.randrange(1, 2000)]
    else:
        begin = dice.randrange(len(spoilt))
        spoilt[at:at] = spoilt[begin : begin + dice.randrange(1, 2000)]
    return bytes(spoilt)


@pytest.mark.parametrize("content", [b"", b"\0" * 10_240, b"\x1f\x8b", b"PK\x03\x04", b"x" * 5000])
def test_what_is_no_artifact_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other"
    file.write_bytes(content)

    with pytest.raises(BadArtifact, match="^other: "):
        read(file, tmp_path)
