"""How much one device may send: a bound on what it can cost everybody else.

Owns the count for each device that was active lately. Never decides what happens to what is over
the limit; dropping it is safe, because sessions say everything again.

Method: the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371), one number a
device: the time at which it will have paid for all that it sent.
"""

import ipaddress
from typing import Final

FORGET_EVERY_S: Final = 30.0

BYTES_PER_TOKEN: Final = 2048
"""A frame costs one token for each message and one for each so many bytes."""

HELD_BYTES_PER_TOKEN: Final = 16_384
"""Each message about a document also costs one token for each so many bytes that are held of it,
because they are loaded to merge it."""

IPV6_NETWORK_BITS: Final = 64
"""One network of IPv6 is one source: its addresses cost nothing."""


class Flood:
    """The limit, the same for every device.

    Args:
        rate_per_s: Tokens a second in the long run.
        burst_count: Tokens at once.
    """

    def __init__(self, *, rate_per_s: float, burst_count: int) -> None:
        self._cost_s = 1.0 / rate_per_s
        self._burst_s = burst_count / rate_per_s
        self._paid_mono: dict[str, float] = {}
        self._forget_mono = 0.0

    def admits(self, device: str, tokens: float, now_mono: float) -> bool:
        """Tell whether the device may send now; if so, count `tokens` against it."""
        paid_mono = self._paid_mono.get(device, 0.0)
        if paid_mono - now_mono > self._burst_s:
            return False
        self._paid_mono[device] = max(paid_mono, now_mono) + tokens * self._cost_s
        return True

    def is_over(self, device: str, now_mono: float) -> bool:
        """Tell whether the device may not send now; counts nothing and remembers nobody."""
        return self._paid_mono.get(device, 0.0) - now_mono > self._burst_s

    def charge(self, device: str, tokens: float, now_mono: float) -> None:
        """Count `tokens` against the device."""
        paid_mono = self._paid_mono.get(device, 0.0)
        self._paid_mono[device] = max(paid_mono, now_mono) + tokens * self._cost_s

    def forget(self, now_mono: float) -> None:
        """Forget the devices that owe nothing, now and then."""
        if now_mono < self._forget_mono:
            return
        self._forget_mono = now_mono + FORGET_EVERY_S
        self._paid_mono = {
            device: paid for device, paid in self._paid_mono.items() if paid > now_mono
        }

    def pardon(self) -> None:
        """Let nobody owe anything: what they sent could not be kept, and comes again."""
        self._paid_mono.clear()

    def __len__(self) -> int:
        """Return how many devices are counted."""
        return len(self._paid_mono)


def network_of(source: str) -> str:
    """Return what counts as one source."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if address.version == 4:  # noqa: PLR2004 - the protocol
        return source
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_NETWORK_BITS), strict=False))
