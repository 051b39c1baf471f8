"""PNG files with 256 colours at most, which is enough for a page and a third of the bytes."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from functools import cache

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
CHANNELS = {2: 3, 6: 4}


def smaller(png: bytes) -> bytes:
    """Return a picture with a palette; of more colours than it can have, the nearest."""
    width, height, channels, data = _read(png)
    rows = _unfiltered(data, width * channels, channels)
    pixels = [row[x : x + 3] for row in rows for x in range(0, len(row), channels)]
    counted = Counter(pixels)
    palette = [colour for colour, _ in counted.most_common(COLOURS)]
    places = {colour: number for number, colour in enumerate(palette)}

    @cache
    def place(colour: bytes) -> int:
        known = places.get(colour)
        if known is not None:
            return known
        return min(range(len(palette)), key=lambda number: _distance(palette[number], colour))

    indexes = bytes(map(place, pixels))
    lines = b"".join(b"\0" + indexes[y * width : (y + 1) * width] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _read(png: bytes) -> tuple[int, int, int, bytes]:
    at, data = len(SIGNATURE), b""
    width = height = channels = 0
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, _, colours = struct.unpack(">IIBB", body[:10])
            channels = CHANNELS[colours]
        elif kind == b"IDAT":
            data += body
        at += length + 12
    return width, height, channels, zlib.decompress(data)


def _unfiltered(data: bytes, length: int, step: int) -> list[bytes]:
    """Return the rows of pixels (the PNG specification, chapter 9)."""
    rows: list[bytes] = []
    above = bytearray(length)
    for at in range(0, len(data), length + 1):
        kind, row = data[at], bytearray(data[at + 1 : at + 1 + length])
        if kind:
            for x in range(length):
                left = row[x - step] if x >= step else 0
                corner = above[x - step] if x >= step else 0
                row[x] = (row[x] + _predicted(kind, left, above[x], corner)) & 0xFF
        rows.append(bytes(row))
        above = row
    return rows


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    match kind:
        case 1:
            return left
        case 2:
            return above
        case 3:
            return (left + above) // 2
    guess = left + above - corner
    return min((left, above, corner), key=lambda each: abs(guess - each))


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
