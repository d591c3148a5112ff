"""A software plugin as thin-edge.io calls it, for tests, and what it has installed."""

from pathlib import Path

PLUGIN = """#!/bin/sh
# One file for each module: its first line is the version, the rest the file it came in.
set -eu
modules="{folder}/modules"
echo "$*" >>"{folder}/calls"
mkdir -p "$modules"
install() {{
    name="$1" version="$2" file="$3"
    [ -n "$version" ] || version=newest
    {{ echo "$version"; if [ -n "$file" ]; then cat "$file"; fi; }} >"$modules/.$name"
    mv "$modules/.$name" "$modules/$name"
}}
{before}
case "$1" in
list) for m in "$modules"/*; do
    if [ -f "$m" ]; then printf '%s\\t%s\\n' "${{m##*/}}" "$(head -n 1 "$m")"; fi; done ;;
prepare|finalize) ;;
install)
    name="$2" version="" file=""; shift 2
    while [ $# -gt 0 ]; do case "$1" in
        --module-version) version="$2" ;; --file) file="$2" ;; *) exit 1 ;; esac; shift 2; done
    install "$name" "$version" "$file" ;;
remove) rm -f "$modules/$2" ;;
{update_list}
*) exit 1 ;;
esac
"""

UPDATE_LIST = """update-list)
    tab="$(printf '\\t')"
    while IFS= read -r line; do
        action="${line%%$tab*}"; rest="${line#*$tab}"
        name="${rest%%$tab*}"; rest="${rest#*$tab}"
        version="${rest%%$tab*}"; file="${rest#*$tab}"
        case "$action" in
        install) install "$name" "$version" "$file" ;;
        remove) rm -f "$modules/$name" ;;
        *) exit 2 ;;
        esac
    done ;;"""


def make_plugin(folder: Path, name: str, *, has_list: bool = True, before: str = "") -> Path:
    """Put a plugin into `folder/plugins`; `before` is shell that it runs first."""
    path = folder / "plugins" / name
    path.parent.mkdir(exist_ok=True)
    update_list = UPDATE_LIST if has_list else ""
    path.write_text(PLUGIN.format(folder=folder, before=before, update_list=update_list))
    path.chmod(0o755)
    return path


def modules(folder: Path) -> dict[str, str]:
    """Return what the plugin has installed: each module's version, and the file it came in."""
    return {
        path.name: path.read_text().strip() for path in sorted((folder / "modules").glob("[a-z]*"))
    }


def calls(folder: Path) -> list[str]:
    """Return how it was called since the last time, `list` apart."""
    path = folder / "calls"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [call for call in found if call != "list"]
