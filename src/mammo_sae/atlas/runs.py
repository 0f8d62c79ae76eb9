"""Compare two runs: a page with the SAEs of both, and their latents matched by activation.

The atoms of two runs may lie in different spaces. So latents are matched by their scores on the
images that both runs have, by the method of the step `activation_matches`. Images are the same if
their pseudonyms are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mammo_sae.analysis.activation_matches import pair_latents
from mammo_sae.atlas.neighbours import activation_matches, sample
from mammo_sae.atlas.pages import write_page, write_static
from mammo_sae.atlas.scripts import read_data, write_data
from mammo_sae.atlas.stored import Stored
from mammo_sae.errors import InputError
from mammo_sae.progress import progress

SEED = 0  # of the exchange of patients
FEWEST = 10  # images in common, without which nothing is matched


def compare_runs(names: Sequence[str], runs: Sequence[Stored], folder: Path) -> Path:
    """Write a page that compares the SAEs of two runs, and return its path.

    Parameters
    ----------
    names
        What the page calls the runs.
    runs
        The two runs.
    folder
        Folder to write. It must not have files.

    Raises
    ------
    InputError
        If the folder has files, or the runs have too few images or no concept in common.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty; give a new folder")
    concepts = [name for name in runs[0].about["concepts"] if name in runs[1].about["concepts"]]
    if not concepts:
        raise InputError(f"{names[0]} and {names[1]} have no concept in common; give other runs")
    ids, patients = common_images(names, runs)
    data = folder / "data"
    tables = [
        {address: read_data(run.atlas / "data" / address / "table.js") for address in run.saes}
        for run in runs
    ]
    score = runs[0].score(next(iter(runs[0].saes.values())))
    both = [(side, address) for side in (0, 1) for address in runs[side].saes]
    for side, address in progress(both, label="SAEs"):
        mine, other = runs[side], runs[1 - side]
        identity = mine.saes[address]
        latents = _with_images(tables[side][address])
        matches = {}
        for theirs, partner in other.saes.items():
            if partner.layer == identity.layer:
                readers = other.reader(partner), mine.reader(identity)
                pairs = pair_latents(*readers, score, ids, patients, SEED, latents)
                matches[f"{2 - side}/{theirs}"] = activation_matches(pairs)
        name = f"{side + 1}/{address}"
        write_data(data / name / "table.js", f"table/{name}", tables[side][address])
        write_data(data / name / "nearest.js", f"nearest/{name}", matches)
    return _write_page(names, runs, concepts, [len(some) for some in ids], folder)


def common_images(
    names: Sequence[str], runs: Sequence[Stored]
) -> tuple[list[list[str]], list[np.ndarray]]:
    """Return the images that both runs have codes of, and the patient of each, in two parts.

    The first part lies outside of the confirmation split of either run, the second in that of both.
    Each has at most `mammo_sae.atlas.neighbours.IMAGES` images, at equal steps.

    Raises
    ------
    InputError
        If a part has fewer than `FEWEST` images.
    """
    cohorts = [run.cohort.drop_duplicates("image_id").set_index("image_id") for run in runs]
    coded = set(cohorts[1].index)
    for run in runs:
        for identity in run.saes.values():
            coded &= set(run.reader(identity).image_ids)
    both = [image for image in cohorts[0].index if image in coded]
    first, second = (
        (cohort.loc[both, "split"] == run.about["split"]).to_numpy(dtype=bool)
        for cohort, run in zip(cohorts, runs, strict=True)
    )
    ids, patients = [], []
    for part, where in ((~(first | second), "outside of"), (first & second, "in")):
        some = sample([both[i] for i in np.flatnonzero(part)])
        if len(some) < FEWEST:
            raise InputError(
                f"{names[0]} and {names[1]} have {len(some)} images in common {where} their "
                f"confirmation splits, and {FEWEST} are needed; compare runs on the same images "
                "with the same key of pseudonyms and the same splits"
            )
        ids.append(some)
        patients.append(cohorts[0].loc[some, "patient_id"].to_numpy())
    return ids, patients


def _with_images(table: dict[str, Any]) -> np.ndarray:
    """Return the latents that have images in their atlas, given the table of their layer."""
    columns = dict(zip(table["names"], table["values"], strict=True))
    return np.array(columns["latent"])[np.array(columns["images"], dtype=bool)]


def _write_page(
    names: Sequence[str],
    runs: Sequence[Stored],
    concepts: Sequence[str],
    images: Sequence[int],
    folder: Path,
) -> Path:
    places = [f"{quote(Path(os.path.relpath(run.atlas, folder)).as_posix())}/" for run in runs]
    saes = [
        [
            {**one, "address": f"{side}/{one['address']}", "own": one["address"], "atlas": place}
            for one in run.about["saes"]
        ]
        for side, (run, place) in enumerate(zip(runs, places, strict=True), 1)
    ]
    about = {"saes": saes[0], "others": saes[1], "first": f"1/{runs[0].about['first']}"}
    write_data(folder / "data" / "run.js", "run", about)
    write_static(folder / "static")
    content = {
        "concepts": concepts,
        "saes": [(one, one["address"]) for one in saes[0]],
        "others": [(one, one["address"]) for one in saes[1]],
        "runs": list(zip(names, places, strict=True)),
        "images": images,
        "split": runs[0].about["split"],
    }
    return write_page(folder, "runs", content)
