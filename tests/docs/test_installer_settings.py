import re
from pathlib import Path

import pytest

from firmware_hooks import ab_slots, rauc, swupdate
from firmware_hooks.boot.custom import Custom
from firmware_hooks.boot.grub import Grub
from firmware_hooks.boot.tryboot import Tryboot
from firmware_hooks.boot.uboot import UBoot

PAGE = (Path(__file__).parents[2] / "docs/reference/installer-settings.md").read_text()


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("ab-slots", ab_slots.OPTIONS),
        ("rauc", rauc.OPTIONS),
        ("swupdate", swupdate.OPTIONS),
        ("Bootloader: tryboot", Tryboot.OPTIONS),
        ("Bootloader: uboot", UBoot.OPTIONS),
        ("Bootloader: grub", Grub.OPTIONS),
        ("Bootloader: custom", Custom.OPTIONS),
    ],
)
def test_every_setting_of_an_installer_is_documented_and_no_other(
    heading: str, names: frozenset[str]
) -> None:
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(first))) == names
