"""Step: convert the image files of one shard into a store of canonical images."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from mammo_sae.cohorts.annotations import clipped, read_annotations
from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.pseudonyms import Pseudonyms, load_pseudonyms
from mammo_sae.cohorts.readers import Sources, reader_class
from mammo_sae.cohorts.source import SourceFiles
from mammo_sae.dicom.canonical import canonical_image, published_boxes
from mammo_sae.dicom.files import read_image, why_unreadable
from mammo_sae.dicom.geometry import Geometry
from mammo_sae.dicom.header import Header
from mammo_sae.dicom.refusal import HEADER_ALONE, Reason, Refusal
from mammo_sae.dicom.settings import TriageSettings
from mammo_sae.dicom.triage import Expected, judge_header, judge_image
from mammo_sae.errors import InputError
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.ordered import in_order
from mammo_sae.progress import progress
from mammo_sae.stores.images import NOTICES, RASTERS, ImageRecord, ImageWriter, create_image_store

# A process takes about a second to start, so it should have several seconds of decoding to do.
PIXELS_PER_PROCESS = 100_000_000
# Processor time in which one file is converted, or else refused. A mammogram takes a few seconds.
# On some damaged streams a decoder takes hours.
SECONDS_PER_FILE = 120
VOI_FUNCTIONS = {"LINEAR", "LINEAR_EXACT", "SIGMOID"}

T = TypeVar("T")
R = TypeVar("R")


def run(
    settings: ConversionSettings,
    sources: Sequence[Path],
    shard: int,
    store: Path,
    manifest: Path,
    threads: int = 1,
) -> list[Path]:
    """Convert one shard of DICOM files to canonical images with masks and geometry.

    The regions of the store are the source's categories of findings for which the shard has boxes,
    then the artefacts for which the sources have masks. They do not depend on concepts, which are
    names for categories. A region is its exact mask if the source has one, else its filled boxes.

    Files that can't be converted, or that `settings.images.triage` refuses, are left out. The
    store's attribute `refused` lists them as {image_id: reason code}.

    Parameters
    ----------
    settings
        Preprocessing, key of the pseudonyms.
    sources
        The cohort's folders. Only the annotations of the shard's patients are read, not the
        cohort's tables. After new images are added, only the shards of their patients are
        converted again.
    shard
        Number of the shard to convert.
    store, manifest
        The store to write; see `mammo_sae.stores.images`.
    threads
        Files decoded at a time, in one process each if there is enough work to start processes. At
        most one more file is held in memory. A file that makes a decoder end its process is
        refused.

    Raises
    ------
    InputError
        If more than the allowed share of files is refused. The message gives their number per
        reason and the pseudonym of the first. No store is left.
    """
    pseudonyms = load_pseudonyms(settings.key_file)

    def mine(patient: str) -> bool:
        return pseudonyms.shard(patient, settings.shards) == shard

    opened = Sources(settings.kind, sources)
    found = read_annotations(opened, {}, {}, pseudonyms, mine)
    files = opened.files(pseudonyms, mine)
    table = found.images.sort_values("image_id", kind="stable")
    masked, artefacts = opened.masked_regions()
    boxes, _ = clipped(found.boxes, found.images)
    regions = [*sorted({*masked, *boxes["category"]}), *artefacts]
    of_image = dict(tuple(boxes.groupby("image_id")))
    none = boxes.iloc[:0]
    jobs = [
        Job(settings, regions, row, files[row.image_id], of_image.get(row.image_id, none))
        for row in table.itertuples()
    ]
    pixels = int((table["rows"].astype("int64") * table["columns"]).sum())
    processes = min(threads, pixels // PIXELS_PER_PROCESS)
    if not opened.reader.simulated:
        # Files from other programs may make a decoder end its process.
        processes = max(1, processes)
    policy = settings.images.triage
    in_all = len(table) + len(found.lost)
    refused = {
        image_id: why_unreadable(files[image_id].dicom) for image_id in sorted(found.lost)
    } | {job.image_id: Reason.MISSING for job in jobs if job.is_missing}
    jobs = [job for job in jobs if not job.is_missing]
    _report(refused, policy)
    check_share(refused, in_all, policy, settings.kind)
    # The number of images in a store is fixed before the files are decoded, and only decoding shows
    # which files must be left out. So a shard with such files is converted again without them.
    while True:
        try:
            with create_image_store(
                store,
                manifest,
                image_ids=[job.image_id for job in jobs],
                height=settings.images.height,
                width=settings.images.width,
                regions=regions,
                artefacts=artefacts,
                attributes={
                    "preprocessing": settings.images.preprocessing,
                    "refused": {image_id: reason.code for image_id, reason in refused.items()},
                },
            ) as writer:
                _convert(
                    jobs,
                    writer,
                    processes,
                    policy,
                    pseudonyms,
                    f"convert shard {shard}",
                )
            return [manifest]
        except _LeaveOut as left_out:
            refused.update(left_out.refused)
            check_share(refused, in_all, policy, settings.kind)
            jobs = [job for job in jobs if job.image_id not in refused]


class _LeaveOut(Exception):
    """Some images must be left out of the store that is being written."""

    def __init__(self, refused: dict[str, Reason]) -> None:
        super().__init__()
        self.refused = refused


def _convert(
    jobs: Sequence[Job],
    writer: ImageWriter,
    processes: int,
    policy: TriageSettings,
    pseudonyms: Pseudonyms,
    label: str,
) -> None:
    refused: dict[str, Reason] = {}
    warned: list[tuple[str, Reason]] = []
    seen: set[tuple[str, str]] = set()
    outcomes = isolated(Job.run, jobs, processes, Job.lost)
    for position, outcome in enumerate(progress(outcomes, total=len(jobs), label=label)):
        image_id = jobs[position].image_id
        reason, reasons = outcome.refused, list(outcome.found)
        if reason is None and not seen.isdisjoint(outcome.identities.items()):
            if policy.duplicate == "refuse":
                reason = Reason.DUPLICATE
            else:
                reasons.append(Reason.DUPLICATE)
        seen.update(outcome.identities.items())
        warned += [(image_id, r) for r in reasons if getattr(policy, r.code) == "warn"]
        if reason is not None:
            refused[image_id] = reason
        elif not refused:
            assert outcome.record is not None  # an image that is not refused has a record
            facts = dict(outcome.record.facts)
            for name, alone in (("triage", False), (NOTICES, True)):
                found = (r.code for r in reasons if (r in HEADER_ALONE) == alone)
                facts[name] = ";".join(found)
            # Shards are converted independently, so digests that reveal duplicates are stored.
            facts |= {name: pseudonyms.content(of) for name, of in outcome.identities.items()}
            writer.write(position, replace(outcome.record, facts=facts))
    if refused:
        _report(refused, policy)
        raise _LeaveOut(refused)
    for image_id, reason in warned:
        print(f"warning: image {image_id}: {Refusal(reason)}", file=sys.stderr)


def _report(left_out: Mapping[str, Reason], policy: TriageSettings) -> None:
    for image_id, reason in left_out.items():
        if reason is not Reason.MISSING or policy.missing != "accept":
            print(f"left out: image {image_id}: {Refusal(reason)}", file=sys.stderr)


def check_share(
    left_out: Mapping[str, Reason], images: int, policy: TriageSettings, kind: str
) -> None:
    """Refuse a shard in which too many of its `images` images are refused.

    Raises
    ------
    InputError
        If they are. The message gives their number per reason and the pseudonym of the first.
    """
    refused = {
        image_id: reason
        for image_id, reason in left_out.items()
        if reason is not Reason.MISSING or policy.missing == "refuse"
    }
    most = policy.most_refused
    # In a small shard one image is a large share, and one bad file should not end a run.
    if len(refused) <= max(most * images, 1 if most else 0):
        return
    first, reason = next(iter(refused.items()))
    counts = Counter(reason.code for reason in refused.values())
    others = ", ".join(f"{code} {n}" for code, n in sorted(counts.items()))
    raise InputError(
        f"image {first} can't be converted: {Refusal(reason)}; {len(refused)} of the shard's "
        f"{images} images are refused ({others}), more than images.triage.most_refused = {most:g} "
        f"allows; {_advice(reason, kind)}"
    )


def _advice(reason: Reason, kind: str) -> str:
    """Return what the user can do about images that are refused for a reason."""
    if reason is Reason.MISSING:
        return (
            f"files are looked for in {reader_class(kind).pattern} of the source, as DICOM, PNG, "
            "JPEG, TIFF or NPY; set images.triage.missing to warn for a part of a dataset"
        )
    if reason is Reason.SIZE:
        return (
            "boxes are in pixels of the annotated size; images of another size can be read with "
            "cohort.kind table, those of Mammo-CLIP's preprocessing with mammo_clip"
        )
    if reason is Reason.NOT_IMAGE:
        return "convert such files to one of these formats, or remove them from the tables"
    if reason.code in TriageSettings.model_fields:
        return f"check the files, or change the policy images.triage.{reason.code}"
    return "repair the files or remove them from the tables, or raise images.triage.most_refused"


def isolated(
    function: Callable[[T], R],
    items: Sequence[T],
    processes: int,
    lost: Callable[[T], R],
    seconds: float = SECONDS_PER_FILE,
) -> Iterator[R]:
    """Yield `function(item)` in the order of `items`, computed by `processes` processes.

    If `processes` is 0, this process computes them. At most `processes` + 1 results wait at any
    time. Threads would not run in parallel, since the decoders of JPEG Lossless, JPEG-LS and JPEG
    2000 hold Python's lock. On damaged data some decoders end their process, or do not return for
    hours. The result of an item that ends its process, or takes more than `seconds` of processor
    time, is `lost(item)`.
    """
    if processes == 0:
        yield from map(function, items)
        return
    function = partial(_limited, function, seconds)
    position = 0
    while position < len(items):
        try:
            for result in _pooled(function, items[position:], processes):
                yield result
                position += 1
        except BrokenProcessPool:
            # One of the next items ended its process. Run the first of them alone, and then the
            # others together again.
            try:
                result = next(_pooled(function, items[position : position + 1], 1))
            except BrokenProcessPool:
                result = lost(items[position])
            yield result
            position += 1


def _limited(function: Callable[[T], R], seconds: float, item: T) -> R:
    """Return `function(item)`, or end this process if that takes more than `seconds`.

    The signal's default action ends the process in the middle of a decoder's code, where a handler
    in Python would not run.
    """
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        return function(item)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _pooled(function: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    # Processes are spawned, not forked: a fork copies the locks of running threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(items)), mp_context=context) as pool:
        yield from in_order(pool, function, items, ahead=processes)


@dataclass(frozen=True)
class Outcome:
    """The result for one file: a record, or the reason why there is none.

    `found` are reasons that the policy let pass. `identities` are digests of the pixels and of the
    instance UID: two files that share one are duplicates.
    """

    record: ImageRecord | None
    refused: Reason | None = None
    found: Sequence[Reason] = ()
    identities: Mapping[str, str] = field(default_factory=dict)


class Row(Protocol):
    """A row of the table of images, as pandas yields it."""

    image_id: str
    rows: int
    columns: int
    side: str
    view: str


class Job:
    """One image to convert."""

    def __init__(
        self,
        settings: ConversionSettings,
        regions: Sequence[str],
        row: Row,
        files: SourceFiles,
        boxes: pd.DataFrame,
    ) -> None:
        self.image_id = row.image_id
        self._settings = settings.images
        self._regions = regions
        self._size = (row.rows, row.columns)
        self._expected = Expected(side=row.side, view=row.view)
        self._files = files
        self._boxes = boxes

    @property
    def is_missing(self) -> bool:
        """Return whether the file is missing."""
        return not self._files.dicom.exists()

    def run(self) -> Outcome:
        """Convert the image, or return the reason why not."""
        try:
            return self._convert()
        except Refusal as refusal:
            return Outcome(record=None, refused=refusal.reason)

    def lost(self) -> Outcome:
        """Return the outcome of an image on which a decoder ended its process."""
        return Outcome(record=None, refused=Reason.DECODE)

    def _convert(self) -> Outcome:
        policy = self._settings.triage
        header, stored = read_image(self._files.dicom)
        found = judge_header(header, self._expected, policy)
        if stored.shape != self._size:
            raise Refusal(Reason.SIZE)
        canonical = canonical_image(header, stored, self._settings)
        found += judge_image(canonical, self._expected, policy)
        geometry = canonical.geometry
        vertical, horizontal = header.spacing_mm
        record = ImageRecord(
            pixels=canonical.pixels,
            breast=canonical.breast,
            regions=self._region_masks(geometry),
            affine=geometry.affine,
            flipped=geometry.flipped,
            spacing_mm=float(np.sqrt(vertical / geometry.scale_y * horizontal / geometry.scale_x)),
            facts=_facts(header),
        )
        identities = {"same_pixels": hashlib.blake2b(np.ascontiguousarray(stored).data).hexdigest()}
        if header.acquisition.uid:
            identities["same_uid"] = header.acquisition.uid
        return Outcome(record, found=found, identities=identities)

    def _region_masks(self, geometry: Geometry) -> np.ndarray:
        out = np.zeros((len(self._regions), geometry.height, geometry.width), dtype=bool)
        bits = self._files.mask_bits
        planes = None
        if bits:
            assert self._files.mask is not None  # an image with mask bits has a mask file
            planes = self._planes(self._files.mask)
        for region, mask in zip(self._regions, out, strict=True):
            if planes is not None and region in bits:
                mask |= geometry.resample_mask((planes >> bits[region]) & 1)
            else:
                found = self._boxes.loc[self._boxes["category"] == region, BOX].to_numpy(float)
                if self._settings.preprocessing == "mammo_clip" and self._settings.compat:
                    found = published_boxes(found, *self._size)
                mask |= geometry.fill_boxes(found)
        return out

    def _planes(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                planes = np.asarray(image)
        except (OSError, ValueError):
            raise Refusal(Reason.MASK) from None
        if planes.dtype != np.uint8 or planes.shape != self._size:
            raise Refusal(Reason.MASK)
        return planes


def _facts(header: Header) -> dict[str, str]:
    """Return facts that may be confounders: the file's coding and the display of its values.

    A text is returned only if the DICOM standard defines it, since other texts may hold anything.
    For a raster file only its coding is known.
    """
    if header.syntax in RASTERS:
        return {"transfer_syntax": header.syntax}
    voi = "none"
    if header.voi_luts:
        voi = "table"
    elif header.windows:
        voi = header.voi_function if header.voi_function in VOI_FUNCTIONS else "other"
    return {
        "bits_stored": str(header.bits_stored),
        "photometric": header.photometric,
        "transfer_syntax": header.syntax,
        "voi": voi,
        "windows": str(len(header.windows)),
    }
