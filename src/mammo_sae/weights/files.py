"""Reads weight files: torch's (of any version), plain pickles, safetensors.

`read_weights` runs no code of a file (`unpickling`). Tensors are views of the file, which is mapped
into memory. So a file of gigabytes needs only the memory of the tensors in use.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mammo_sae.errors import InputError, first_line
from mammo_sae.weights.rebuilding import Constructors, Storage, storage, storage_type
from mammo_sae.weights.unpickling import Damaged, Foreign, unpickle

ZIP = b"PK\x03\x04"
# Before version 1.6, torch.save wrote this number and two more pickles before the object's pickle.
LEGACY_NUMBER = 0x1950A86A20F9469CFC6C
BROKEN_ZIP = (zipfile.BadZipFile, NotImplementedError, struct.error)
MOST_PICKLE = 256 << 20  # largest pickle in bytes; it does not contain the data of tensors


def read_weights(path: Path) -> Any:
    """Read a file of weights.

    Parameters
    ----------
    path
        A file of torch.save, a plain pickle, or a safetensors file.

    Returns
    -------
    Plain containers of tensors (views of the file), NumPy arrays, numbers and text. Objects of
    unknown classes become a `Foreign`.

    Raises
    ------
    InputError
        If the file is missing or damaged, or claims more bytes than it has.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
            if len(start) < 2:
                raise Damaged("it is empty")
            if start[8:9] == b"{":
                return load_file(path)
            view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        if start.startswith(ZIP):
            return _Archive(view).read()
        return _read_stream(view)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist; correct its path") from None
    except IsADirectoryError:
        raise InputError(f"checkpoint {path} is a folder; give the file of the weights") from None
    except (Damaged, SafetensorError, OSError, ValueError, *BROKEN_ZIP) as error:
        reason = first_line(error)
        raise InputError(
            f"checkpoint {path} is damaged, or no file of weights ({reason}); fetch it again, or "
            "save the weights with torch.save or safetensors"
        ) from None


class _Archive:
    """The zip file of torch.save: a pickle, and the uncompressed bytes of each storage."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        # typeshed asks for a `seek` that returns the position; zipfile does not use that.
        with zipfile.ZipFile(view) as archive:  # type: ignore[call-overload]
            records = archive.infolist()
        if sum(record.file_size for record in records) > len(view):
            raise Damaged("its parts claim more bytes than the file has")
        self._records = {record.filename: record for record in records}
        pickles = [name for name in self._records if name.count("/") == 1 and "/data.pkl" in name]
        if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
            raise Damaged("a zip file without data.pkl")
        self._pickle = pickles[0]
        self._folder = pickles[0].removesuffix("data.pkl")
        # torch has an option to write no checksums; then all of them are 0.
        self._checked = any(record.CRC for record in records)
        self._storages: dict[str, Storage] = {}

    def read(self) -> Any:
        """Return the object in the file."""
        order = self._records.get(f"{self._folder}byteorder")
        if order is not None and self._bytes(order) != b"little":
            raise Damaged("it is big-endian; save it on a little-endian machine")
        data = self._bytes(self._records[self._pickle])
        value, _ = unpickle(io.BytesIO(data), Constructors(len(self._view)).table, self._persistent)
        return value

    def _bytes(self, record: zipfile.ZipInfo) -> bytes:
        start = self._start(record)
        if record.file_size > MOST_PICKLE:
            raise Damaged(
                f"{record.filename} has {record.file_size} bytes, more than {MOST_PICKLE}"
            )
        return self._view[start : start + record.file_size]

    def _persistent(self, claim: Any) -> Storage | Foreign:
        kind, key, count = _claim(claim)
        if isinstance(kind, Foreign):
            return kind
        found = self._storages.get(key)
        if found is None:
            record = self._records.get(f"{self._folder}data/{key}")
            if record is None:
                raise Damaged(f"storage {key[:40]!r} is not in it")
            if count * kind.itemsize > record.file_size:
                raise Damaged(
                    f"storage {key!r} claims {count * kind.itemsize} bytes, but has "
                    f"{record.file_size}"
                )
            found = storage(self._view, self._start(record), count, kind)
            self._storages[key] = found
        if found.values.dtype != kind or found.values.numel() != count:
            raise Damaged(f"storage {key!r} has two different descriptions")
        return found

    def _start(self, record: zipfile.ZipInfo) -> int:
        """Return the offset of a record's bytes in the file, after a check of their checksum."""
        name, at = record.filename, record.header_offset
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise Damaged(f"{name} is compressed, which torch.save never does")
        header = self._view[at : at + 30]
        if len(header) < 30 or header[:4] != ZIP:
            raise Damaged(f"{name} is not where the file says")
        start = at + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + record.file_size > len(self._view):
            raise Damaged(f"{name} is cut off")
        if self._checked:
            part = memoryview(self._view)[start : start + record.file_size]
            with part:
                if zlib.crc32(part) != record.CRC:
                    raise Damaged(f"{name} does not match its checksum")
        return start


def _read_stream(view: mmap.mmap) -> Any:
    """Read a plain pickle, or a file that torch.save wrote before version 1.6."""
    table = Constructors(len(view)).table
    first, _ = unpickle(view, table, _no_storage)
    if first != LEGACY_NUMBER:
        return first
    for _ in range(2):  # the protocol's version, and the sizes of number types
        unpickle(view, table, _no_storage)
    # Read the pickle twice: the storages come after it, but only the pickle gives their types.
    claims: dict[str, tuple[Any, int]] = {}

    def look(claim: Any) -> Foreign:
        kind, key, count = _claim(claim)
        if claims.setdefault(key, (kind, count)) != (kind, count):
            raise Damaged(f"storage {key[:40]!r} has two different descriptions")
        return Foreign("storage")

    start = view.tell()
    unpickle(view, table, look)
    keys, end = unpickle(view, table, _no_storage)
    storages = _legacy_storages(view, end, keys, claims)

    def find(claim: Any) -> Storage | Foreign:
        key = _claim(claim)[1]
        if key not in storages:
            raise Damaged(f"storage {key[:40]!r} is not in it")
        return storages[key]

    view.seek(start)
    return unpickle(view, Constructors(len(view)).table, find)[0]


def _legacy_storages(
    view: mmap.mmap, end: int, keys: Any, claims: dict[str, tuple[Any, int]]
) -> dict[str, Storage | Foreign]:
    """Return the storages after the pickles, by key. In the file, a count precedes the numbers."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Damaged("it has no list of storages")
    storages: dict[str, Storage | Foreign] = {}
    for key in keys:
        kind, count = claims.get(key, (None, 0))
        if not isinstance(kind, torch.dtype):
            raise Damaged(f"storage {key[:40]!r} has an unknown number type")
        if len(view) < end + 8 or struct.unpack("<q", view[end : end + 8])[0] != count:
            raise Damaged(f"storage {key[:40]!r} has another size than its tensors say")
        if end + 8 + count * kind.itemsize > len(view):
            raise Damaged(f"storage {key[:40]!r} is cut off")
        storages[key] = storage(view, end + 8, count, kind)
        end += 8 + count * kind.itemsize
    return storages


def _no_storage(_claim: Any) -> Any:
    raise Damaged("its pickle has a storage at a place where none is allowed")


def _claim(claim: Any) -> tuple[Any, str, int]:
    """Return type, key and length of the storage to which a persistent id of a pickle refers."""
    if isinstance(claim, str):
        raise Damaged("saved with pickle protocol 0, which torch can't load either; use protocol 2")
    if not isinstance(claim, tuple) or len(claim) < 5 or claim[0] != "storage":
        raise Damaged("its pickle refers to something that is not a storage")
    if len(claim) > 5 and claim[5] is not None:
        raise Damaged("a storage is part of another one")
    _, kind, key, _, count = claim[:5]
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 60:
        raise Damaged("its pickle refers to a storage without name or size")
    found = storage_type(kind)
    return (Foreign(str(kind)[:120]) if found is None else found), key, count
