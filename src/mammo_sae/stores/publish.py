"""Publish a result: write it under a temporary name, hash it, rename it, write the manifest.

A store is a directory. Its manifest is a small JSON file next to it, which describes only the
content (no times, no host, no code version). So equal content has an equal manifest, and results
computed from the store do not become stale. The record of the step that made the store is next to
the manifest (`mammo_sae.records`).

Layout of a published directory::

    <store>/files.json        {relative path: [bytes, sha256]} of every other file
    <store>/...               the content
    <store>/dropped.json      names of folders that were deleted to save room, if any
    <manifest>.json           kind, relative path of the store, digest of files.json, description
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_sae.errors import StoreError
from mammo_sae.stores.checksums import file_digest, with_checksum, without_checksum

FORMAT = 2
PARTIAL, REPLACED = ".partial", ".replaced"
FILES = "files.json"
DROPPED = "dropped.json"
# Snakemake writes this file into a directory that a rule has made, to keep the directory's time.
TIMESTAMP = ".snakemake_timestamp"
# Files up to this size (metadata, labels) are compared with the file list's digests whenever a
# store is opened. Larger files are chunks of arrays, which contain their own checksums.
SMALL = 64 * 1024

Description = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class StoreInfo:
    """An opened store: its data directory and the content of its manifest."""

    path: Path
    manifest: dict[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file written by `write_json`, after comparing its checksum.

    Raises
    ------
    StoreError
        If the file is missing, is not JSON, or was changed. The message names it.
    """
    return without_checksum(read_plain_json(path), path)


def read_plain_json(path: Path) -> Any:
    """Return the content of a JSON file without a checksum, such as a source's.

    Raises
    ------
    StoreError
        If the file is missing or is not JSON. The message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; run the step that makes it") from None
    except IsADirectoryError:
        raise StoreError(
            f"{path} is a folder; give its manifest, the file {path.with_suffix('.json').name} "
            "beside it"
        ) from None
    # Numbers with thousands of digits raise ValueError, thousands of brackets RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not readable JSON ({error}); delete it and rebuild") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON with sorted keys and a checksum, atomically."""
    write_plain_json(path, with_checksum(content))


def write_plain_json(path: Path, content: Any) -> None:
    """Write `content` like `write_json` but without a checksum, for formats defined elsewhere."""
    with atomic_file(path) as aside:
        aside.write_text(
            json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path next to `path` to write to; rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def create_store(
    path: Path,
    manifest: Path,
    *,
    kind: str,
    describe: Description | None = None,
) -> Iterator[Path]:
    """Yield an empty directory next to `path`; publish it as `path` if the block succeeds.

    An older store is renamed first and deleted after the new one is in place: on a network file
    system, a store that a reader has open can be renamed but not deleted. While a store is being
    replaced, it has no manifest. If a workflow was killed and started again, a writer of the killed
    workflow may still run. It then finds the mark of the new writer and does not change the store.

    Parameters
    ----------
    path
        The store's final directory.
    manifest
        The JSON file that is written last, outside `path`.
    kind
        Kind of the store (`images`, `embeddings`, ...). Readers refuse another kind.
    describe
        Extra content of the manifest, or a function that returns this content for the filled
        directory.

    Raises
    ------
    StoreError
        If another process has started to write the same store meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    owner = path.with_name(f".{path.name}.writer")
    for leftover in path.parent.glob(f".{path.name}.*"):
        if leftover.suffix in {PARTIAL, REPLACED}:
            shutil.rmtree(leftover, ignore_errors=True)
    owner.write_text(token, encoding="utf-8")
    aside = path.with_name(f".{path.name}.{token}{PARTIAL}")
    aside.mkdir()
    try:
        yield aside
        files = _hash_files(aside)
        listing = json.dumps(files, indent=0, sort_keys=True)
        (aside / FILES).write_text(listing, encoding="utf-8")
        extra = describe(aside) if callable(describe) else (describe or {})
        content = {
            "format": FORMAT,
            "kind": kind,
            "store": os.path.relpath(path, manifest.parent),
            "digest": hashlib.sha256(listing.encode()).hexdigest(),
            "files": len(files),
            "bytes": sum(size for size, _ in files.values()),
            **extra,
        }
        if not owner.is_file() or owner.read_text(encoding="utf-8") != token:
            raise StoreError(f"{path} is being written by another process; this one stops")
        replaced = path.with_name(f".{path.name}.{token}{REPLACED}")
        if path.exists():
            path.rename(replaced)
        manifest.unlink(missing_ok=True)
        aside.rename(path)
        write_json(manifest, content)
        # Files that a reader still has open stay until the next writer deletes them.
        shutil.rmtree(replaced, ignore_errors=True)
        owner.unlink(missing_ok=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if owner.is_file() and owner.read_text(encoding="utf-8") == token:
            owner.unlink(missing_ok=True)


def open_store(manifest: Path, *, kind: str) -> StoreInfo:
    """Open the store that `manifest` describes, after quick checks.

    The checks cover the manifest's checksum, form and kind, the digest of the file list, the
    presence and size of every file, and the content of small files. Large files are checked chunk
    by chunk when they are read, and as a whole by `verify_store`.

    Raises
    ------
    StoreError
        If a check fails. The message names the store and the check.
    """
    content = read_json(manifest)
    if content.get("format") != FORMAT:
        raise StoreError(f"{manifest} is not a manifest of format {FORMAT}; rebuild its store")
    if content.get("kind") != kind:
        raise StoreError(
            f"{manifest} describes {content.get('kind')!r}, not {kind!r}; give a manifest of {kind}"
        )
    path = manifest.parent / content["store"]
    for name, (size, digest) in _kept(path, _listing(path, content)).items():
        file = path / name
        try:
            found = file.stat().st_size
            same = found == size and (size > SMALL or file_digest(file) == digest)
        except FileNotFoundError:
            raise StoreError(
                f"{path}: file {name} is missing; delete {manifest} and rerun"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{path}: file {name} can't be read ({error.strerror}); delete {manifest} and rerun"
            ) from None
        if found != size:
            raise StoreError(
                f"{path}: file {name} has {found} bytes, not {size}; delete {manifest} and rerun"
            )
        if not same:
            raise StoreError(
                f"{path}: file {name} was changed after it was written; delete {manifest} and rerun"
            )
    return StoreInfo(path=path, manifest=content)


def verify_store(manifest: Path) -> list[str]:
    """Read every byte of a store and return its defects, one sentence each."""
    try:
        content = read_json(manifest)
        path = manifest.parent / content["store"]
        expected = _kept(path, _listing(path, content))
    except StoreError as error:
        return [str(error)]
    found = _hash_files(path)
    problems = [f"{path}: file {name} is missing" for name in sorted(expected.keys() - found)]
    problems += [
        f"{path}: file {name} is not in its list" for name in sorted(found - expected.keys())
    ]
    problems += [
        f"{path}: file {name} was changed after it was written"
        for name in sorted(expected.keys() & found)
        if list(found[name]) != list(expected[name])
    ]
    return problems


def drop_folders(manifest: Path, folders: Collection[str]) -> None:
    """Delete folders of a store to save room. The manifest stays, and the store counts as whole.

    Parameters
    ----------
    manifest
        Manifest of the store.
    folders
        Names of folders directly in the store. Names that it does not have are left out.
    """
    path = manifest.parent / read_json(manifest)["store"]
    names = dropped_folders(path) | {name for name in folders if (path / name).is_dir()}
    if names:
        # The names come first: a folder that is deleted in part counts as dropped.
        write_plain_json(path / DROPPED, sorted(names))
    for name in names:
        shutil.rmtree(path / name, ignore_errors=True)


def dropped_folders(path: Path) -> set[str]:
    """Return the names of the folders of the store `path` that were deleted to save room."""
    return set(read_plain_json(path / DROPPED)) if (path / DROPPED).is_file() else set()


def _kept(path: Path, listing: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Return the part of a store's list of files that was not dropped."""
    gone = dropped_folders(path)
    return {name: entry for name, entry in listing.items() if name.split("/")[0] not in gone}


def find_manifests(folder: Path) -> list[Path]:
    """Return the manifests of all stores in `folder`, at any depth."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        # JSON files inside a store are its content, never manifests.
        if any((parent / FILES).is_file() for parent in path.parents):
            continue
        content = read_plain_json(path)
        if isinstance(content, dict) and {"format", "kind", "store", "digest"} <= content.keys():
            found.append(path)
    return found


def _listing(path: Path, content: dict[str, Any]) -> dict[str, tuple[int, str]]:
    try:
        listing = (path / FILES).read_bytes()
    except OSError:
        raise StoreError(f"{path} is missing or incomplete; rerun the step that makes it") from None
    if hashlib.sha256(listing).hexdigest() != content["digest"]:
        raise StoreError(f"{path} is not the store its manifest describes; rebuild it")
    return json.loads(listing)


def _hash_files(root: Path) -> dict[str, tuple[int, str]]:
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    names = [name for name in names if name not in {FILES, DROPPED, TIMESTAMP}]

    def hashed(name: str) -> tuple[int, str]:
        return (root / name).stat().st_size, file_digest(root / name)

    # Hashing releases Python's global lock, so use one thread per core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(hashed, names), strict=True))
