"""Picture files put together byte by byte, of kinds that Pillow reads but does not write."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: np.ndarray, *, bits: int = 8, transparent: Sequence[int] = (), chunks: bytes = b"") -> bytes:
    """Grey `[h, w]` or RGB `[h, w, 3]` values of 1, 2, 4, 8 or 16 bits; `transparent` is one grey value or colour."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    key = png_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    rows = b"".join(b"\0" + _packed(row.reshape(-1), bits) for row in pixels)
    image = png_chunk(b"IHDR", header) + key + chunks + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + image + png_chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, *, white_is_zero: bool = False, bits: int | None = None) -> bytes:
    """Grey `[h, w]` of any integer or float type; `bits=12` packs two values into three bytes."""
    height, width = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    if bits == 12:
        content = b"".join(_packed(row, bits) for row in pixels)
    shorts = {
        256: width,
        257: height,
        258: bits or 8 * pixels.itemsize,
        259: 1,
        262: 0 if white_is_zero else 1,
        277: 1,
        278: height,
        339: kind,
    }
    at = 8 + 2 + 12 * (len(shorts) + 2) + 4
    entries = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    entries |= {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in {273: at, 279: len(content)}.items()}
    folder = b"".join(entries[tag] for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + folder + struct.pack("<I", 0) + content


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    """An EXIF block of entries (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0)


def _packed(values: np.ndarray, bits: int) -> bytes:
    """Values of this many bits one after another, the highest bit first; the last byte is filled up with zeros."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((values.astype(np.uint32)[:, None] >> places) & 1).tobytes()
