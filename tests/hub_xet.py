"""The storage of the Hub's large files, Xet, that the Hub's client uses by default: chunks, xorbs and shards.

See https://huggingface.co/docs/xet: a shard lists, for each of its files, the chunks of xorbs that make it up.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator

import pyarrow

HEADER, RECORD = 48, 48  # bytes of a shard's header, and of each record in it
END = b"\xff" * 32  # ends the list of files in a shard
# flags of a file: one more record for each of its entries, and one more for the file
VERIFIED, DESCRIBED = 1 << 31, 1 << 30


class Xet:
    """Holds the uploads: the chunks of each xorb, by its hash. Complete files go to `stored`, by their SHA-256."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        self.stored, self.xorbs, self.lock = stored, {}, threading.Lock()

    def add_xorb(self, name: str, data: bytes) -> None:
        with self.lock:
            self.xorbs[name] = list(_chunks(data))

    def add_shard(self, data: bytes) -> None:
        """Stores the files of a shard. Raises KeyError if one of its xorbs was not uploaded before."""
        at = HEADER
        while data[at : at + 32] != END:
            flags, count = struct.unpack_from("<II", data, at + 32)
            at += RECORD
            content = b""
            for _ in range(count):
                _, size, first, last = struct.unpack_from("<IIII", data, at + 32)
                part = b"".join(self.xorbs[_hex(data[at : at + 32])][first:last])
                assert len(part) == size
                content, at = content + part, at + RECORD
            at += RECORD * (count * bool(flags & VERIFIED) + bool(flags & DESCRIBED))
            self.stored[hashlib.sha256(content).hexdigest()] = content


def _chunks(data: bytes) -> Iterator[bytes]:
    """Yields the chunks of a xorb. In some versions an index follows them."""
    at = 0
    while at + 8 <= len(data) and data[at] == 0:
        packed, size = int.from_bytes(data[at + 1 : at + 4], "little"), int.from_bytes(data[at + 5 : at + 8], "little")
        scheme, body = data[at + 4], data[at + 8 : at + 8 + packed]
        yield _unpack(body, scheme, size)
        at += 8 + packed


def _unpack(body: bytes, scheme: int, size: int) -> bytes:
    if scheme == 0:
        return body
    data = pyarrow.decompress(body, decompressed_size=size, codec="lz4", asbytes=True)
    if scheme == 1:
        return data
    grouped, at = bytearray(size), 0  # bytes 0, 4, 8, ..., then bytes 1, 5, 9, ..., and so on
    for start in range(4):
        count = len(range(start, size, 4))
        grouped[start::4] = data[at : at + count]
        at += count
    return bytes(grouped)


def _hex(name: bytes) -> str:
    """Returns a hash as Xet writes it: four little-endian numbers, in hexadecimal."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", name))
