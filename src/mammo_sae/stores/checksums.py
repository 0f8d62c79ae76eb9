"""Checksums that small files contain, compared at every read.

Chunks of a Zarr array have their own checksums (`arrays`), and a store's file list has the SHA-256
of every file. JSON files and tables are outside stores, so each contains its own SHA-256:

- a JSON object in its key `checksum`, over the canonical text of all other keys;
- a Parquet file in its metadata, over all of its bytes, with 64 zeros in place of the digest.
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
# A Parquet file's metadata in Thrift's compact form: the key, then a string of 64 bytes.
PARQUET_FIELD = PARQUET_KEY + b"\x18\x40"


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the SHA-256 of its other keys under `checksum`."""
    return {**content, KEY: _digest(content)}


def without_checksum(content: Any, path: Path) -> dict[str, Any]:
    """Compare the checksum of a JSON object read from `path`; return the object without it.

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
    """Replace the placeholder in a Parquet file's metadata (`PARQUET_KEY: BLANK`) by its digest."""
    content = path.read_bytes()
    place = _place(content)
    if place is None or content[place : place + 64] != BLANK:
        raise ValueError(f"{path}: the metadata has no blank checksum")
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(hashlib.sha256(content).hexdigest().encode())


def check_parquet(content: bytes, path: Path) -> None:
    """Compare the digest of a sealed Parquet file with its bytes.

    Raises
    ------
    StoreError
        If the digest is missing or does not match.
    """
    place = _place(content)
    if place is not None:
        # Use views: slices of bytes would copy the whole table.
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
    """Return the hexadecimal SHA-256 of one file, or of several files joined in order."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: found)
    return found.hexdigest()


def _place(content: bytes) -> int | None:
    """Return the offset of a Parquet file's digest, which is in the footer."""
    found = content.rfind(PARQUET_FIELD)
    return None if found < 0 else found + len(PARQUET_FIELD)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
