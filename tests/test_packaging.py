import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ROOMS: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
LOCK = (ROOT / "requirements.lock").read_text()

# Imported by the hub alone. `yaml` and `httpx` come with its web framework.
HUB_STACK = {"apsw", "click", "hub", "httpx", "litestar", "obstore", "rich", "uvicorn", "yaml"}


def top_level_packages() -> set[str]:
    return {init.parent.name for init in ROOT.glob("*/__init__.py")}


def run_python(code: str, *args: str, flags: str = "-I") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags.split(), "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def distribution_of(requirement: str) -> str:
    """Return the normalised name that a requirement starts with."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


# ------------------------------------------------------------------------------------ names


def test_no_dependency_ships_a_module_with_one_of_our_names() -> None:
    owners = packages_distributions()
    foreign = {name: set(owners.get(name, [])) - {PROJECT["name"]} for name in top_level_packages()}
    assert {name: others for name, others in foreign.items() if others} == {}


def test_the_project_refuses_to_be_uploaded() -> None:
    assert any(classifier.startswith("Private ::") for classifier in PROJECT["classifiers"])


def test_every_top_level_package_is_type_checked_and_sorted_as_ours() -> None:
    assert set(PYPROJECT["tool"]["mypy"]["packages"]) == top_level_packages()
    isort = PYPROJECT["tool"]["ruff"]["lint"]["isort"]
    assert set(isort["known-first-party"]) == top_level_packages()


def test_every_room_is_under_the_import_contracts() -> None:
    assert set(PYPROJECT["tool"]["importlinter"]["root_packages"]) == set(ROOMS)


# ----------------------------------------------------------------------------------- device

IMPORT_THE_DEVICE = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
for room in ("agent", "firmware_hooks", "sync"):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_device_never_imports_what_the_hub_installs() -> None:
    done = run_python(IMPORT_THE_DEVICE, str(ROOT))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & HUB_STACK == set()


# ------------------------------------------------------------------------------------ wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as an installer would, without an index, and return its path."""
    directory = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_of_every_room_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")
    }
    assert {name for name in packed if name.endswith(".py")} == modules
    assert {name.partition("/")[0] for name in packed} == set(ROOMS)


# Without `site`, an editable install in this environment cannot lend the wheel a missing module.
START_FROM_THE_WHEEL = """
import sys
wheel, script, *site_packages = sys.argv[1:]
sys.path += [wheel, *site_packages]
from importlib.metadata import distribution
entry_points = distribution("fieldfare").entry_points
(entry_point,) = entry_points.select(group="console_scripts", name=script)
main = entry_point.load()
assert sys.modules[entry_point.module].__file__.startswith(wheel), entry_point.module
sys.argv = [script, "--help"]
sys.exit(main())
"""


@pytest.mark.parametrize("script", sorted(PROJECT["scripts"]))
def test_a_console_script_starts_from_the_wheel_alone(
    wheel: Path, script: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    site_packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    done = run_python(START_FROM_THE_WHEEL, str(tmp_path), script, *site_packages, flags="-I -S")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


LOAD_THE_INSTALLERS = """
import sys
wheel, *site_packages = sys.argv[1:]
sys.path += [wheel, *site_packages]
from importlib.metadata import distribution
for entry_point in distribution("fieldfare").entry_points.select(group="fieldfare.installers"):
    entry_point.load()
    print(entry_point.name)
"""


def test_every_installer_that_the_wheel_names_can_be_loaded(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    site_packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    done = run_python(LOAD_THE_INSTALLERS, str(tmp_path), *site_packages, flags="-I -S")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(PROJECT["entry-points"]["fieldfare.installers"])


# ------------------------------------------------------------------------------------- lock


def locked() -> dict[str, str]:
    """Return what the lock says about each distribution: its version and its digests."""
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    return {distribution_of(entry): entry for entry in entries}


def test_every_locked_distribution_has_one_exact_version_and_a_digest() -> None:
    for name, entry in locked().items():
        assert re.match(rf"{re.escape(name)}==[0-9][^ ]*( ; [^\n\\]+)? \\\n", entry), entry
        assert "--hash=sha256:" in entry, name


def test_the_lock_holds_what_device_hub_and_tests_ask_for_and_no_rig() -> None:
    asked = [*PROJECT["dependencies"], *EXTRAS["hub"], *EXTRAS["s3"], *EXTRAS["dev"]]
    assert {distribution_of(requirement) for requirement in asked} <= set(locked())
    assert {distribution_of(requirement) for requirement in EXTRAS["hil"]} & set(locked()) == set()


def test_the_lock_names_no_address_and_no_option() -> None:
    assert "://" not in LOCK
    assert [line for line in LOCK.splitlines() if line.startswith("-")] == []


# ------------------------------------------------------------------------------------- tree

# Spelled in parts, so that this file does not hold what it forbids.
FORBIDDEN = re.compile(
    "|".join(
        [
            *(
                re.escape(".".join(host))
                for host in (
                    ("pypi", "org"),
                    ("pythonhosted", "org"),
                    ("npmjs", "org"),
                    ("npmjs", "com"),
                    ("crates", "io"),
                    ("deb", "debian", "org"),
                    ("proxy", "golang", "org"),
                )
            ),
            # A home or work folder, which exists on one machine only.
            r"(?<![\w.*}])/(?:"
            + "|".join(["ho" + "me", "ro" + "ot", "wo" + "rk", "Us" + "ers"])
            + ")/",
        ]
    )
)


def test_no_file_names_a_package_registry_or_a_folder_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if listed.returncode != 0:
        pytest.skip("this tree is not a git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(errors="replace")
            found += [f"{name}: {match.group()}" for match in FORBIDDEN.finditer(text)]
    assert found == []
