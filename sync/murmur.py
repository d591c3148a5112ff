"""MurmurHash3, the 32-bit form for x86, by Austin Appleby (public domain).

Owns the one hash that puts devices into buckets. It is pinned: another one would deal every device
of every fleet anew, so what is here never changes.
"""

from typing import Final

_WORD: Final = 0xFFFFFFFF
_C1: Final = 0xCC9E2D51
_C2: Final = 0x1B873593


def murmur3_32(key: bytes, seed: int = 0) -> int:
    """Return the hash of `key`, 0 to 2**32 - 1."""
    mixed = seed & _WORD
    whole = len(key) - len(key) % 4
    for at in range(0, whole, 4):
        mixed ^= _scramble(int.from_bytes(key[at : at + 4], "little"))
        mixed = (_rotate(mixed, 13) * 5 + 0xE6546B64) & _WORD
    if whole < len(key):
        mixed ^= _scramble(int.from_bytes(key[whole:], "little"))
    mixed ^= len(key)
    mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & _WORD
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & _WORD
    return mixed ^ (mixed >> 16)


def _scramble(word: int) -> int:
    return (_rotate((word * _C1) & _WORD, 15) * _C2) & _WORD


def _rotate(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & _WORD
