"""Strict reading and writing of lib0 variable-length integers and buffers.

Owns the byte level below the gate and the state vectors.
Never guesses: an over-long integer, a missing byte or a length beyond the end raises `Malformed`.

Format: little-endian base 128, the top bit of a byte says that another follows
(lib0 encoding.js, the encoding that Yjs update format version 1 is written in).
"""

VAR_UINT_BYTES_MAX = 8
"""Eight groups of seven bits hold every integer below 2**56; ids and clocks stay below 2**53."""

_LOW = 0x7F
_MORE = 0x80

UINT_MAX = 2**53 - 1
"""Largest integer that every implementation of the format represents exactly."""


class Malformed(ValueError):
    """The bytes are not what the format allows. The sender is to blame; nothing was changed."""


def write_uint(out: bytearray, value: int) -> None:
    """Append `value` (0 to 2**53-1) in its shortest form."""
    while value > _LOW:
        out.append(_MORE | (value & _LOW))
        value >>= 7
    out.append(value)


class Reader:
    """A cursor over bytes that can only move forward and never past the end."""

    __slots__ = ("_end", "buffer", "position")

    def __init__(self, buffer: bytes) -> None:
        """Start at the first byte of `buffer`."""
        self.buffer = buffer
        self.position = 0
        self._end = len(buffer)

    def byte(self) -> int:
        """Return the next byte as 0 to 255.

        Raises:
            Malformed: Nothing is left.
        """
        position = self.position
        if position >= self._end:
            raise Malformed("ends too early")
        self.position = position + 1
        return self.buffer[position]

    def uint(self) -> int:
        """Return the next integer.

        Raises:
            Malformed: It is cut off, longer than it needs to be, or above 2**53-1.
        """
        buffer = self.buffer
        position = self.position
        if position >= self._end:
            raise Malformed("ends too early")
        byte = buffer[position]
        if byte < _MORE:
            self.position = position + 1
            return byte
        value = byte & _LOW
        shift = 7
        stop = min(self._end, position + VAR_UINT_BYTES_MAX)
        position += 1
        while position < stop:
            byte = buffer[position]
            position += 1
            value |= (byte & _LOW) << shift
            if byte < _MORE:
                if byte == 0:
                    raise Malformed("integer is longer than it needs to be")
                if value > UINT_MAX:
                    raise Malformed("integer is above 2**53-1")
                self.position = position
                return value
            shift += 7
        raise Malformed("integer is cut off or too long")

    def take(self, length_bytes: int) -> bytes:
        """Return the next `length_bytes` bytes.

        Raises:
            Malformed: Fewer are left.
        """
        position = self.position
        stop = position + length_bytes
        if stop > self._end:
            raise Malformed("ends too early")
        self.position = stop
        return self.buffer[position:stop]

    def at_end(self) -> bool:
        """Tell whether every byte has been read."""
        return self.position == self._end
