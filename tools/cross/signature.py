"""Checks the ad hoc code signature of a Mach-O file: macOS on arm64 kills what has none that holds.

The layout is that of Apple's open source xnu, osfmk/kern/cs_blobs.h; all numbers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct

EMBEDDED_SIGNATURE = 0xFADE0CC0  # a SuperBlob: an index of blobs
CODE_DIRECTORY = 0xFADE0C02
ADHOC = 0x2
SHA256 = 2


def _directory(blob: bytes) -> bytes:
    magic, _, count = struct.unpack_from(">3I", blob)
    if magic != EMBEDDED_SIGNATURE:
        raise ValueError(f"expected magic {EMBEDDED_SIGNATURE:#x}, found {magic:#x}")
    for index in range(count):
        _, offset = struct.unpack_from(">2I", blob, 12 + 8 * index)
        magic, size = struct.unpack_from(">2I", blob, offset)
        if magic == CODE_DIRECTORY:
            return blob[offset : offset + size]
    raise ValueError("no code directory")


def check_signature(image: bytes, offset: int, size: int) -> None:
    """Checks the signature at `offset`: ad hoc, over all before it, every page hash right.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        directory = _directory(image[offset : offset + size])
        flags, hash_offset, _, _, n_pages, limit = struct.unpack_from(">6I", directory, 12)
        hash_size, hash_type, _, page_shift = struct.unpack_from(">4B", directory, 36)
    except struct.error as error:
        raise ValueError(f"cut off ({error})") from error
    if not flags & ADHOC:
        raise ValueError(f"flags {flags:#x} lack ad hoc")
    if (hash_type, hash_size) != (SHA256, 32):
        raise ValueError(f"expected SHA-256, found hash type {hash_type} of {hash_size} bytes")
    if limit != offset:
        raise ValueError(f"covers {limit} bytes of {offset}")
    page_bytes = 1 << page_shift
    pages = [image[at : min(at + page_bytes, limit)] for at in range(0, limit, page_bytes)]
    stored = [
        directory[hash_offset + 32 * page : hash_offset + 32 * (page + 1)]
        for page in range(n_pages)
    ]
    wrong = [
        page
        for page, (content, digest) in enumerate(zip(pages, stored, strict=True))
        if hashlib.sha256(content).digest() != digest
    ]
    if wrong:
        raise ValueError(f"page hashes differ: {wrong[:8]}")
