"""The tables that the workflow reads, proposed from a person's folder.

A value comes from the person's tables, or else from the DICOM header, or else from the file's name.
Nothing of a header is copied but side and view. If no table names the patients, PatientID tells
which images belong together, and a keyed hash of it is written in its place. A folder without a
table becomes a cohort without labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.draw import drawn_splits
from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.cohorts.table import SHORT_SPLITS
from mammo_sae.cohorts.tables import SPLITS
from mammo_sae.complaints import listed
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.errors import InputError, counted
from mammo_sae.own_data.bare import (
    IN_NAME_OR_TABLE,
    bare_patients,
    check_bare,
    hint,
    no_labels,
)
from mammo_sae.own_data.boxes import Boxes, read_boxes
from mammo_sae.own_data.columns import Column, Columns, shown
from mammo_sae.own_data.labels import Labels, read_labels
from mammo_sae.own_data.matching import (
    Index,
    Match,
    group_name,
    lost_zeros,
    match_table,
    narrowed,
)
from mammo_sae.own_data.scan import Folder, Found
from mammo_sae.own_data.words import ROLES, plain, side_of, view_of

TEST_SHARE, MOST_TEST, LEAST_TEST = 0.2, 0.5, 20
"""The test split: a fifth of the patients, but at least 20 of them, and at most half."""
MOST_DRAWS = 50


@dataclass(frozen=True)
class Proposal:
    """The content of `images.csv` and `findings.csv`, and the words to say about it.

    Attributes
    ----------
    images
        A row per image, with the columns of `images.csv` as text.
    findings
        A row per box; empty without boxes.
    concepts, covariates
        Names of columns of `images`.
    lines
        Column -> the place that it was read from.
    said
        Sentences about what is not certain, left out or unknown.
    kinds
        Number of used images by kind of file.
    sizes
        Rows and columns of the used images.
    """

    images: pd.DataFrame
    findings: pd.DataFrame
    concepts: tuple[str, ...]
    covariates: tuple[str, ...]
    lines: Mapping[str, str]
    said: tuple[str, ...]
    kinds: Counter[str]
    sizes: frozenset[tuple[int, int]]


@dataclass
class _Said:
    lines: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def propose(folder: Folder, asked: Mapping[str, str], pseudonyms: Pseudonyms) -> Proposal:
    """Return the tables for a folder.

    Parameters
    ----------
    folder
        The folder, as `scan` returns it.
    asked
        Role or label -> name of its column, as the person gave it. Others are found.
    pseudonyms
        Pseudonyms under the person's key, for patients who are named only in headers.

    Raises
    ------
    InputError
        If there are tables and none names the images, or if it is uncertain which column is
        needed. The message says how to name the column.
    """
    images, said = folder.images, _Said()
    hints = [hint(image) for image in images]
    if folder.tables:
        matches = _matches(folder, asked, hints, said)
        named = [any(match.rows[at] for match in matches) for at in range(len(images))]
    else:
        check_bare(folder, asked, hints)
        matches, named = [], [True] * len(images)
        said.said.append(no_labels(folder))
    columns = Columns(matches, asked)
    _say_left_out(folder, named, said)
    boxes = read_boxes(matches, columns, images)
    sides = _values(columns, "side", side_of, images, hints, named, said)
    views = _values(columns, "view", view_of, images, hints, named, said)
    patients = _patients(columns, matches, images, named, pseudonyms, said)
    split = columns.pick("split", _split)
    labels = read_labels(columns, [patient or "" for patient in patients])
    _labels_of_boxes(labels, boxes, named)
    if folder.tables:
        _check_labels(labels, columns, folder)
    kept = [
        at
        for at, is_named in enumerate(named)
        if is_named
        and sides[at]
        and views[at]
        and patients[at]
        and images[at].refused is None
        and images[at].path not in folder.twins
    ]
    table = pd.DataFrame(
        {
            "file": [images[at].path for at in kept],
            "patient_id": [patients[at] for at in kept],
            "view": [views[at] for at in kept],
            "side": [sides[at] for at in kept],
            **{
                name: [cells[at] for at in kept]
                for name, cells in {**labels.concepts, **labels.further}.items()
            },
        },
        dtype=object,
    )
    if table.empty:
        raise InputError(
            f"no image of {folder.path} has a row in a table, a side, a view and a patient; "
            f"{'; '.join(said.said) or 'complete the tables'}"
        )
    table.insert(2, "split", _splits(split, kept, table, labels, pseudonyms, said))
    position = {at: images[at].path for at in kept}
    findings = pd.DataFrame(
        [(position[at], name, *box) for at, name, *box in boxes.rows if at in position],
        columns=["file", "finding", *BOX],
    )
    advice = "name its column with --columns {}=COLUMN" if matches else IN_NAME_OR_TABLE
    _say_unknown(images, named, {"side": sides, "view": views}, advice, said)
    _say_rare(table, labels, said)
    used = [images[at] for at in kept]
    return Proposal(
        table,
        findings,
        tuple(labels.concepts),
        tuple(labels.covariates),
        {**said.lines, **labels.lines, **(boxes.lines if len(findings) else {})},
        (*folder.passed, *folder.said, *said.said, *labels.said, *boxes.said),
        Counter(image.kind for image in used),
        frozenset((i.rows or 0, i.columns or 0) for i in used),
    )


def _matches(
    folder: Folder,
    asked: Mapping[str, str],
    hints: Sequence[tuple[str | None, str | None]],
    said: _Said,
) -> list[Match]:
    """Return how rows belong to images, for all tables that name images or their patients."""
    index = Index(folder.images)
    named = asked.get("file")
    if named is not None and not any(named in table.header for table in folder.tables):
        known = dict.fromkeys(name for table in folder.tables for name in table.header)
        raise InputError(
            f"--columns file={named}: no table has a column {named!r}; there are "
            f"{listed(list(known), 'and')}"
        )
    first = [match_table(t, index, named if named in t.header else None) for t in folder.tables]
    asked_for = [match for match in first if match and match.column == named]
    if named is not None and not asked_for:
        raise InputError(
            f"--columns file={named}: the cells of this column name no image of {folder.path}, "
            f"whose files are called like {folder.images[0].path!r}; name another column"
        )
    # A table may name patients that only another table connects with files.
    direct = [match for match in first if match and match.one_image]
    index = Index(folder.images, _known(direct, asked, "patient", len(hints)))
    readers = (("side", side_of), ("view", view_of))
    of_tables = [_known(direct, asked, role, len(hints), read) for role, read in readers]
    hints = [
        (sides or hint[0], views or hint[1])
        for hint, sides, views in zip(
            hints, *(own or [None] * len(hints) for own in of_tables), strict=True
        )
    ]
    matches = []
    for table, match in zip(folder.tables, first, strict=True):
        match = match or match_table(table, index)
        if match is None:
            said.said.append(
                f"{table.name} has no column that names images or patients, so it is not used; its "
                f"columns are {', '.join(table.header[:12])}"
            )
            continue
        matches.append(narrowed(match, hints))
        place = f"column {match.column!r} of {table.name}, which names {group_name(match.by)}"
        before = said.lines.get("file")
        said.lines["file"] = f"{before}; {place}" if before else place
        if match.by == "file" and plain(match.column) in ROLES["patient"]:
            said.said.append(
                f"{place}, by its cells, although it is called like a patient; if it does not, add "
                "a column with the names of the files"
            )
        _say_unmatched(match, index, said)
    if not matches:
        raise InputError(_no_match(folder, index))
    return matches


def _no_match(folder: Folder, index: Index) -> str:
    for table in folder.tables:
        for name in table.header:
            whole = Match(table, name, "file", (), tuple(range(len(table.rows))))
            zeros = lost_zeros(whole, index)
            if zeros is not None:
                return _zeros(whole, zeros)
    table = max(folder.tables, key=lambda table: len(table.rows))
    if not table.rows:
        why = f" ({'; '.join(folder.said)})" if folder.said else ""
        return f"{table.name} has the names of its columns and no row{why}; add a row per image"
    row = f" (for example {', '.join(table.rows[0][1][:3])})"
    return (
        f"no column of {listed([t.name for t in folder.tables], 'or')} names the images; "
        f"{table.name} has {', '.join(table.header[:12])}{row}, and the files are called like "
        f"{folder.images[0].path!r}; add a column with the names of the files"
    )


def _zeros(match: Match, zeros: tuple[str, str]) -> str:
    return (
        f"column {match.column!r} of {match.table.name} holds {zeros[0]!r} and the file is called "
        f"{zeros[1]!r}; a program has removed leading zeros: save the column as text"
    )


def _say_unmatched(match: Match, index: Index, said: _Said) -> None:
    if not match.unmatched:
        return
    line = match.table.rows[match.unmatched[0]][0]
    are = "row names", "rows name"
    what = "a file" if match.by == "file" else "an image"
    said.said.append(
        f"{match.table.name}: {counted(len(match.unmatched), *are)} {what} that is not in the "
        f"folder or whose name is not unique; the first is line {line}"
    )
    zeros = lost_zeros(match, index)
    if zeros is not None:
        said.said.append(_zeros(match, zeros))


def _known(
    matches: Sequence[Match],
    asked: Mapping[str, str],
    role: str,
    images: int,
    read: Callable[[str], str | None] = str,
) -> list[str | None]:
    """Return patient, side or view of each of `images` images, by the tables that name files."""
    there = {name for match in matches for name in match.table.header}
    try:
        own = {key: name for key, name in asked.items() if name in there}
        column = Columns(matches, own).pick(role, None if read is str else read)
    except InputError:
        column = None  # the same error is raised again with all tables
    cells = column.cells if column else [None] * images
    return [read(cell) if cell else None for cell in cells]


def _values(
    columns: Columns,
    role: str,
    read: Callable[[str], str | None],
    images: Sequence[Found],
    hints: Sequence[tuple[str | None, str | None]],
    named: Sequence[bool],
    said: _Said,
) -> list[str | None]:
    """Return side or view of each image: of the table, else of the header, else of the name."""
    column = columns.pick(role, read)
    at = 0 if role == "side" else 1
    backup = [hint[at] for hint in hints]
    cells = column.cells if column is not None else [None] * len(images)
    own = [read(cell) if cell else None for cell in cells]
    # A cell that is no side or view must not be completed by a guess.
    odd = Counter(c for c, of in zip(cells, own, strict=True) if c and not of)
    found = [
        of or (None if cell else hint) for of, cell, hint in zip(own, cells, backup, strict=True)
    ]
    others = sum(bool(a and not b and c) for a, b, c in zip(found, own, named, strict=True))
    from_where = {
        "the DICOM headers" if getattr(image, role) else "the names of the files"
        for image, value, cell, is_named in zip(images, found, cells, named, strict=True)
        if is_named and value and not cell
    }
    place = listed(sorted(from_where) or ["the names of the files"], "and")
    if column is not None:
        said.lines[role] = column.place
        if others:
            said.lines[role] += f", and {place} where the cell is empty ({others})"
    else:
        said.lines[role] = place
    if odd and column is not None:
        expected = "L or R" if role == "side" else "CC or MLO"
        said.said.append(
            f"{column.place} holds {shown(odd)}; only {expected} is used, so these images are left "
            "out"
        )
    differing = sum(
        bool(of and getattr(image, role) and of != getattr(image, role))
        for of, image in zip(own, images, strict=True)
    )
    if differing:
        said.said.append(
            f"the {role} of {counted(differing, 'image')} differs between the table and the DICOM "
            "header; the table is used"
        )
    return found


def _patients(
    columns: Columns,
    matches: Sequence[Match],
    images: Sequence[Found],
    named: Sequence[bool],
    pseudonyms: Pseudonyms,
    said: _Said,
) -> list[str | None]:
    """Return the id of each image's patient, which never comes unchanged from a header."""
    column = columns.pick("patient")
    if column is None:
        by_patient = [match for match in matches if match.by == "patient"]
        if by_patient:
            column = columns.use(Column(by_patient[0], by_patient[0].column), "patient")
    headers = [image.groups[0] for image in images]
    if column is None and not matches:
        patients, said.lines["patient"], sentences = bare_patients(images, pseudonyms)
        said.said += sentences
        return patients
    if column is None:
        without = sum(is_named and not own for is_named, own in zip(named, headers, strict=True))
        if without:
            raise InputError(
                "no column is known to name the patients"
                f"{', and ' + counted(without, 'file') + ' have no PatientID'}; name it with "
                "--columns patient=COLUMN, or add one, since a patient's images must stay in one "
                "split"
            )
        said.lines["patient"] = "a keyed hash of PatientID in the DICOM headers"
        return [pseudonyms.patient(own) if own else None for own in headers]
    said.lines["patient"] = column.place
    cells = [cell or None for cell in column.cells]
    _say_patients(column, cells, headers, said)
    return cells


def _say_patients(
    column: Column, cells: Sequence[str | None], headers: Sequence[str], said: _Said
) -> None:
    known = [cell for cell in cells if cell]
    empty = sum(cell is None for cell in column.cells if cell == "")
    if empty:
        said.said.append(f"{column.place} is empty for {counted(empty, 'image')}, left out")
    if len(set(known)) == len(known) > 4:
        said.said.append(
            f"{column.place} gives every image a patient of its own; if it names images or "
            "examinations, name the right column with --columns patient=COLUMN"
        )
    of: dict[str, set[str]] = defaultdict(set)
    for cell, header in zip(cells, headers, strict=True):
        if cell and header:
            of[header].add(cell)
    torn = sum(len(own) > 1 for own in of.values())
    if torn:
        are = "PatientID of the DICOM headers has", "PatientIDs of the DICOM headers have"
        said.said.append(
            f"{counted(torn, *are)} several values in {column.place}; the images of one patient "
            "may then be in two splits"
        )


def _split(text: str) -> str | None:
    word = text.casefold()
    return word if word in SPLITS else SHORT_SPLITS.get(word)


def _labels_of_boxes(labels: Labels, boxes: Boxes, named: Sequence[bool]) -> None:
    """Add a label for each finding that has boxes and no column of its own."""
    for name, positives in sorted(boxes.named.items()):
        if name in labels.concepts:
            continue
        known = [(at in boxes.asked) or is_named for at, is_named in enumerate(named)]
        labels.concepts[name] = [
            ("1" if at in positives else "0") if of else "" for at, of in enumerate(known)
        ]
        labels.lines[name] = "images with this finding in the table of findings; others 0"


def _check_labels(labels: Labels, columns: Columns, folder: Folder) -> None:
    if labels.concepts:
        return
    seen = ", ".join(dict.fromkeys(column.name for column in columns.all))
    raise InputError(
        f"{folder.path} has no column of labels with 0 and 1 among {seen}; "
        f"{'; '.join(labels.said) or 'name one with --columns mass=COLUMN'}"
    )


def _splits(
    column: Column | None,
    kept: Sequence[int],
    table: pd.DataFrame,
    labels: Labels,
    pseudonyms: Pseudonyms,
    said: _Said,
) -> list[str]:
    """Return the split of each row: of the table, or drawn by patients."""
    if column is not None:
        said.lines["split"] = column.place
        cells = column.cells
        own = [_split(cells[at] or "") or "" for at in kept]
        _say_torn(column, table["patient_id"], own, said)
        return own
    patients = table["patient_id"].nunique()
    share = min(MOST_TEST, max(TEST_SHARE, LEAST_TEST / patients))
    known = pd.DataFrame(
        {
            "source_patient": table["patient_id"],
            "split": "training",
            **{
                name: pd.to_numeric(table[name], errors="coerce").astype("Int64")
                for name in labels.concepts
            },
        }
    )
    drawn = _draw(known, list(labels.concepts), share, pseudonyms)
    tested = table["patient_id"][drawn == "test"].nunique()
    equal = ", with the labels in equal shares" if labels.concepts else ""
    said.lines["split"] = f"drawn: {tested} of {patients} patients are test{equal}"
    return list(drawn)


def _say_torn(column: Column, patients: pd.Series, splits: Sequence[str], said: _Said) -> None:
    of: dict[str, set[str]] = defaultdict(set)
    for patient, split in zip(patients, splits, strict=True):
        of[patient].add(split)
    torn = sum(len(own - {""}) > 1 for own in of.values())
    if torn:
        are = "patient has", "patients have"
        said.said.append(
            f"by {column.place}, {counted(torn, *are)} images in two splits, and the run leaves "
            "these images out; correct the column split of images.csv"
        )


def _draw(
    known: pd.DataFrame, concepts: Sequence[str], share: float, pseudonyms: Pseudonyms
) -> pd.Series:
    """Return the split of each row, by the best of some draws of patients.

    In a small cohort a draw may leave a split without an image that has a label, or without one
    that lacks it, and then nothing can be learnt or scored. The best draw has the fewest such gaps,
    then a number of patients next to the share.
    """
    wanted = share * known["source_patient"].nunique()
    best: tuple[tuple[int, float], pd.Series] | None = None
    for seed in range(MOST_DRAWS):
        drawn = drawn_splits(
            known, concepts, pseudonyms, test_share=share, validation_share=0.0, seed=seed
        )
        gaps = sum(
            not (known.loc[drawn == split, name] == value).any()
            for split in ("training", "test")
            for name in concepts
            for value in (0, 1)
        )
        off = abs(known.loc[drawn == "test", "source_patient"].nunique() - wanted)
        score = (gaps, max(0.0, off - 0.5))
        if best is None or score < best[0]:
            best = (score, drawn)
        if score == (0, 0.0):
            break
    assert best is not None  # there is at least one draw
    return best[1]


def _say_left_out(folder: Folder, named: Sequence[bool], said: _Said) -> None:
    """Say which images have no row, would be refused by their header, or repeat another file."""
    without = [i.path for i, is_named in zip(folder.images, named, strict=True) if not is_named]
    if without:
        are = "image has", "images have"
        said.said.append(
            f"{counted(len(without), *are)} no row in a table, left out, the first is "
            f"{without[0]!r}"
        )
    refused: dict[Reason, list[str]] = defaultdict(list)
    for image, is_named in zip(folder.images, named, strict=True):
        if is_named and image.refused is not None:
            refused[image.refused].append(image.path)
    for reason, paths in refused.items():
        said.said.append(
            f"{counted(len(paths), 'image')} left out: {Refusal(reason)}; the first is {paths[0]!r}"
        )
    if folder.twins:
        twin, first = next(iter(folder.twins.items()))
        are = "file has", "files have"
        said.said.append(
            f"{counted(len(folder.twins), *are)} the content of another file, left out: {twin!r} "
            f"is {first!r}"
        )


def _say_unknown(
    images: Sequence[Found],
    named: Sequence[bool],
    values: Mapping[str, Sequence[str | None]],
    advice: str,
    said: _Said,
) -> None:
    for role, own in values.items():
        lacking = [
            image.path
            for image, is_named, value in zip(images, named, own, strict=True)
            if is_named and not value and image.refused is None
        ]
        if lacking:
            what = "the side" if role == "side" else "a view that is CC or MLO"
            said.said.append(
                f"{what} is unknown for {counted(len(lacking), 'image')}, left out, the first is "
                f"{lacking[0]!r}; {advice.format(role)}"
            )


def _say_rare(table: pd.DataFrame, labels: Labels, said: _Said) -> None:
    """Say which label has no positive or no negative image in the training or the test split."""
    for name in labels.concepts:
        for split in ("training", "test"):
            values = set(table[name][table["split"] == split])
            lacking = [
                word for cell, word in (("1", "with"), ("0", "without")) if cell not in values
            ]
            if lacking:
                said.said.append(
                    f"the {split} split has no image {' and none '.join(lacking)} {name}; edit the "
                    "column split of images.csv, or leave this label out of the configuration"
                )
