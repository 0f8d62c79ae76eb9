"""Checksums that small files carry inside themselves, compared whenever they are read.

A Zarr chunk has its own checksum (`arrays`), and a store's file list has one of every file. JSON
files and tables lie outside of stores, so each carries the SHA-256 of itself:

- a JSON object in its key `checksum`, over the canonical text of all other keys;
- a Parquet file in its metadata, over all of its bytes with the digest's own 64 bytes zeroed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammo_sae.errors import StoreError

KEY = "checksum"
PARQUET_KEY = b"mammo_sae.sha256"
BLANK = b"0" * 64
# Thrift's compact form of a Parquet file's metadata: the key, then a string of 64 bytes.
PARQUET_FIELD = PARQUET_KEY + b"\x18\x40"


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the SHA-256 of its other keys under `checksum`."""
    return {**content, KEY: _digest(content)}


def without_checksum(content: Any, path: Path) -> dict[str, Any]:
    """Return the JSON object read from `path` without its checksum, after comparing it.

    Raises
    ------
    StoreError
        If the checksum is missing or does not match.
    """
    kept = dict(content) if isinstance(content, dict) else {}
    if kept.pop(KEY, None) != _digest(kept):
        raise StoreError(
            f"{path} was changed after it was written: its checksum does not match; "
            "delete it and run the step that makes it"
        )
    return kept


def seal_parquet(path: Path) -> None:
    """Put the digest of a Parquet file, written with `PARQUET_KEY: BLANK`, in the blank's place."""
    content = path.read_bytes()
    place = _place(content)
    if place is None or content[place : place + 64] != BLANK:
        raise ValueError(f"{path}: the metadata has no blank checksum")
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(hashlib.sha256(content).hexdigest().encode())


def check_parquet(content: bytes, path: Path) -> None:
    """Compare the bytes of a sealed Parquet file with its digest.

    Raises
    ------
    StoreError
        If the digest is missing or does not match.
    """
    place = _place(content)
    if place is not None:
        # Views: slices of bytes would be copies of the whole table.
        view = memoryview(content)
        digest = hashlib.sha256(view[:place])
        digest.update(BLANK)
        digest.update(view[place + 64 :])
        if content[place : place + 64] == digest.hexdigest().encode():
            return
    raise StoreError(
        f"table {path} was changed after it was written: its checksum does not match; "
        "delete it and run the step that makes it"
    )


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several one after the other, in hexadecimal digits."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: found)
    return found.hexdigest()


def _place(content: bytes) -> int | None:
    """Return where the digest of a Parquet file starts: in its footer, at the end."""
    found = content.rfind(PARQUET_FIELD)
    return None if found < 0 else found + len(PARQUET_FIELD)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
