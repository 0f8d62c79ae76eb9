"""Step: build the latent atlas, pages that a browser opens from a folder.

The pages need no server and no network. Names of files and pages carry pseudonyms alone. The atlas
is published like a store (`mammo_sae.stores.publish`): it is built under another name and renamed
at the end, and its list of files has the digest of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas.contents import Sources, write_contents
from mammo_sae.atlas.methods import paragraph
from mammo_sae.atlas.pages import PAGES, write_page, write_static
from mammo_sae.atlas.quality import quality
from mammo_sae.atlas.sentences import address, findings, untested
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.atlas.tables import Tables, read_tables
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.publish import FILES, TIMESTAMP, create_store
from mammo_sae.stores.tables import read_table

KIND = "atlas"


def run(
    settings: AtlasSettings,
    *,
    images: Path,
    image_stores: Sequence[Path],
    codes: Sequence[Path],
    saes: Sequence[Path],
    heads: Sequence[Path],
    logits: Sequence[Path],
    tables: Sequence[Path],
    registry: Path,
    content: str,
    split: str,
    store: Path,
    manifest: Path,
) -> list[Path]:
    """Build the latent atlas: a start page, and pages of layers, latents, images and evidence.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    codes
        Manifests of the codes of all SAEs: <encoder>/<layer>/<sae>/seed<seed>.json.
    saes
        Descriptions of the same SAEs: <encoder>/<layer>/<sae>/seed<seed>/sae.json.
    heads
        Descriptions of the encoders' heads: <encoder>/head.json.
    logits
        Tables of the encoders' logits: <encoder>/predictions.parquet.
    tables
        Tables of the run (.parquet). The name of a table is that of its file.
    registry
        Table of the encoders with source, licence and SHA-256.
    content
        The configuration as JSON, without the locations of sources and keys.
    split
        The confirmation split, whose images are shown.
    store
        Folder to write. An earlier atlas there is replaced.
    manifest
        JSON file to write beside the folder, when the folder is complete.

    Raises
    ------
    InputError
        If the codes or the description of an SAE that the tables have are missing, or `store` holds
        something that is not an atlas.
    """
    refuse_foreign(store)
    known = read_tables(tables)
    configuration = json.loads(content)
    sources = Sources(
        images=images,
        codes={identity_of(path.with_suffix("")): path for path in codes},
        saes={identity_of(path.parent): path for path in saes},
        heads={path.parent.name: path.parent for path in heads},
        predictions={path.parent.name: path for path in logits},
        bases={
            encoder: values.get("base")
            for encoder, values in configuration.get("encoders", {}).items()
        },
        split=split,
    )
    for identity in known.saes():
        for option, has in (("codes", sources.codes), ("saes", sources.saes)):
            if identity not in has:
                raise InputError(f"no {option} of {address(identity)}; give them to --{option}")
    with create_store(store, manifest, kind=KIND) as folder:
        pictures = ImageReader(image_stores, concept_regions(images))
        write_contents(settings, known, sources, pictures, folder)
        _write_pages(known, folder, read_table(images), registry, configuration, split)
    return [manifest]


def refuse_foreign(store: Path) -> None:
    """Refuse a folder that may not be replaced.

    Raises
    ------
    InputError
        If the path is a file, or a folder that has files and is not an atlas. An atlas is known by
        its start page and its list of files.
    """
    if not store.exists():
        return
    if not store.is_dir() or store.is_symlink():
        raise InputError(f"{store} is not a folder; give the folder of an atlas, or a new one")
    names = {path.name for path in store.iterdir()} - {TIMESTAMP}
    if names and not {FILES, "index.html", "static"} <= names:
        raise InputError(
            f"{store} has files and is not an atlas; give another folder, because the atlas "
            "replaces everything in its folder"
        )


def identity_of(path: Path) -> Identity:
    """Return the SAE of a path that ends in <encoder>/<layer>/<sae>/seed<seed>.

    Raises
    ------
    InputError
        If the path has another end.
    """
    seed = path.name.removeprefix("seed")
    if len(path.parts) < 4 or not path.name.startswith("seed") or not seed.isdecimal():
        raise InputError(
            f"{path} does not name an SAE; give a path that ends in "
            "<encoder>/<layer>/<sae>/seed<seed>"
        )
    encoder, layer, sae = path.parts[-4:-1]
    return Identity(encoder, layer, sae, int(seed))


def _write_pages(
    tables: Tables,
    folder: Path,
    cohort: pd.DataFrame,
    registry: Path,
    configuration: Mapping[str, Any],
    split: str,
) -> None:
    concepts = tables.concepts()
    shared = {
        "concepts": concepts,
        "split": split,
        "saes": [(identity, address(identity)) for identity in tables.saes()],
    }
    shared["others"] = shared["saes"]
    settings = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True, width=100)
    for page in PAGES:
        more: dict[str, Any] = {}
        if page == "index":
            more = {
                "findings": {concept: findings(tables, concept) for concept in concepts},
                "untested": {concept: untested(tables, concept) for concept in concepts},
                "cohort": cohort_counts(cohort, concepts),
                "encoders": read_table(registry).fillna("").to_dict("records"),
                "quality": quality(tables),
                "configuration": settings,
                "methods": paragraph(configuration),
            }
        write_page(folder, page, {**shared, **more})
    write_static(folder / "static")


def cohort_counts(cohort: pd.DataFrame, concepts: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per split: numbers of images and patients, and of positive images by concept.

    The number of positive images is None if no image of the split has a label.
    """
    rows = []
    for split in style.splits_of(cohort["split"]):
        mine = cohort[cohort["split"] == split]
        positives = {
            concept: int((mine[concept] == 1).sum()) if mine[concept].notna().any() else None
            for concept in concepts
        }
        patients = int(mine["patient_id"].nunique())
        rows.append(
            {"split": split, "images": len(mine), "patients": patients, "positives": positives}
        )
    return rows
