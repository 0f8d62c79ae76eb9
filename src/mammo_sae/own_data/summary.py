"""What a person's folder holds and how it is read, as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mammo_sae.cohorts.tables import SPLITS
from mammo_sae.errors import counted
from mammo_sae.own_data.columns import shown
from mammo_sae.own_data.proposal import Proposal
from mammo_sae.own_data.scan import Folder

UNKNOWN = "unknown"


def found_lines(folder: Folder) -> Iterator[str]:
    """Yield what the folder holds: counts, views, sides, makers, codings, sizes, duplicates."""
    images = folder.images
    kinds = Counter(image.kind for image in images)
    yield f"{folder.path} holds {counted(len(images), 'image')}: {shown(kinds)}"
    for table in folder.tables:
        yield f"  table {table.name}: {counted(len(table.rows), 'row')}, {', '.join(table.header)}"
    if folder.others:
        yield f"  other files, not read: {shown(folder.others)}"
    dicom = [image for image in images if image.kind == "DICOM"]
    if dicom:
        counts = {
            "views": Counter(image.view or UNKNOWN for image in dicom),
            "sides": Counter(image.side or UNKNOWN for image in dicom),
            "makers": Counter(image.manufacturer or UNKNOWN for image in dicom),
            "models": Counter(image.model or UNKNOWN for image in dicom),
            "transfer syntaxes": Counter(image.syntax or UNKNOWN for image in dicom),
        }
        for name, values in counts.items():
            yield f"  {name} in the headers: {shown(values)}"
    sizes = Counter(f"{i.rows} x {i.columns}" if i.rows else UNKNOWN for i in images)
    yield f"  rows x columns: {shown(sizes)}"
    yield f"  files with the content of another file: {len(folder.twins)}"


def proposal_lines(proposal: Proposal) -> Iterator[str]:
    """Yield the mapping of columns, and the sentences about what is not certain."""
    table = proposal.images
    patients = table["patient_id"].nunique()
    counts = Counter(table["split"])
    splits = ", ".join(f"{split} ({counts[split]})" for split in SPLITS if counts[split])
    yield (
        f"images.csv has {counted(len(table), 'image')} of {counted(patients, 'patient')}: {splits}"
    )
    order = [
        name for name in ("file", "patient", "split", "view", "side") if name in proposal.lines
    ]
    for name in [*order, *(name for name in proposal.lines if name not in order)]:
        count = ""
        if name in proposal.concepts:
            cells = Counter(table[name])
            count = f" ({cells['1']} with, {cells['0']} without, {cells['']} unknown)"
        yield f"  {name}: {proposal.lines[name]}{count}"
    if len(proposal.findings):
        boxes = Counter(proposal.findings["finding"])
        yield f"findings.csv has {counted(len(proposal.findings), 'box', 'boxes')}: {shown(boxes)}"
    for sentence in dict.fromkeys(proposal.said):
        yield f"note: {sentence}"
