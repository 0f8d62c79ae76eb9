"""Digests of an archive's current content, which decide staleness. No image is opened.

The digests of this module are parameters of Snakemake's rules, and Snakemake compares them with
those of the previous run. The digest of a shard is computed from everything that the conversion of
its images reads, and from nothing else. Added, changed or removed images therefore rerun only the
conversion of their patients' shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.settings import CohortSettings
from mammo_sae.settings import canonical_json


@dataclass(frozen=True)
class ArchiveState:
    """Digests of a cohort's sources, as canonical JSON under the key `archive`.

    Attributes
    ----------
    tables
        Digest of all inputs of the cohort's tables: each of the source's own tables by its name,
        and every file.
    shards
        Digests of the inputs of each shard's conversion, with each image by its pseudonym.
    images
        Number of images in the sources' tables.
    """

    tables: str
    shards: tuple[str, ...]
    images: int


def archive_state(settings: CohortSettings, sources: Sequence[Path]) -> ArchiveState:
    """Check the size and time of every file of a cohort's sources, and read their tables.

    A file counts as changed when its size or its time of modification has changed. A table counts
    as changed when its content has changed. A copy of an archive with its times (`cp -p`,
    `rsync -t`) counts as unchanged.

    Raises
    ------
    InputError
        If a source is missing or its tables can't be read. The error names it.
    """
    pseudonyms = load_pseudonyms(settings.key_file)
    opened = Sources(settings.kind, sources)
    found = opened.files(pseudonyms)
    common = {"regions": _digest(str(opened.masked_regions()).encode())}
    shards = [dict(common) for _ in range(settings.shards)]
    for image_id in sorted(found):
        files = found[image_id]
        seen = [
            pseudonyms.patient(files.patient),
            files.annotation,
            _seen(files.dicom),
            "" if files.mask is None else _seen(files.mask),
            *map(_seen, files.others),
            str(sorted(files.mask_bits.items())),
        ]
        place = pseudonyms.shard(files.patient, settings.shards)
        shards[place][image_id] = _digest("\n".join(seen).encode())
    texts = tuple(canonical_json({"archive": shard}) for shard in shards)
    tables = {
        f"{part}/{name}": _digest((folder / name).read_bytes())
        for part, folder in zip(("source", "external"), sources, strict=False)
        for name in opened.reader.tables
        if (folder / name).is_file()
    }
    every = _digest("\n".join(texts).encode())
    return ArchiveState(
        canonical_json({"archive": {"every image": every, **tables}}), texts, len(found)
    )


def _seen(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
