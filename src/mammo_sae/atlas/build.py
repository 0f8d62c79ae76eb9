"""Step: build the latent atlas, pages that a browser opens from a folder.

The pages need no server and no network. Names of files and pages carry pseudonyms alone. The atlas
is published like a store (`mammo_sae.stores.publish`): it is built under another name and renamed
at the end, and its list of files has the digest of each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mammo_sae.analysis.cases import Identity, read_cases
from mammo_sae.atlas.evidence import evidence_tables
from mammo_sae.atlas.heat import grid_of
from mammo_sae.atlas.images import read_contributions, read_firing
from mammo_sae.atlas.latents import Detailed, detail
from mammo_sae.atlas.pages import PAGES, write_page, write_static
from mammo_sae.atlas.pictures import describe, write_pictures
from mammo_sae.atlas.records import layer_columns, shards
from mammo_sae.atlas.scripts import write_data
from mammo_sae.atlas.sentences import address, findings
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.atlas.tables import Tables, read_tables
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.codes import CodesReader
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
        If the codes of an SAE that the tables have are missing, or `store` holds something that is
        not an atlas.
    """
    refuse_foreign(store)
    known = read_tables(tables)
    manifests = {identity_of(path): path for path in codes}
    for identity in known.saes():
        if identity not in manifests:
            raise InputError(f"no codes of {address(identity)}; give their manifest to --codes")
    with create_store(store, manifest, kind=KIND) as folder:
        _build(settings, known, manifests, folder, images, image_stores, split)
        _write_pages(known, folder, read_table(images), registry, content, split)
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


def identity_of(manifest: Path) -> Identity:
    """Return the SAE whose codes a manifest describes, from its path.

    Raises
    ------
    InputError
        If the path does not end in <encoder>/<layer>/<sae>/seed<seed>.json.
    """
    seed = manifest.stem.removeprefix("seed")
    if len(manifest.parts) < 4 or not manifest.stem.startswith("seed") or not seed.isdecimal():
        raise InputError(
            f"{manifest} does not name an SAE's codes; give <encoder>/<layer>/<sae>/seed<seed>.json"
        )
    encoder, layer, sae = manifest.parts[-4:-1]
    return Identity(encoder, layer, sae, int(seed))


def _build(
    settings: AtlasSettings,
    tables: Tables,
    manifests: dict[Identity, Path],
    folder: Path,
    images: Path,
    image_stores: Sequence[Path],
    split: str,
) -> None:
    """Write all data files and pictures."""
    store = ImageReader(image_stores, concept_regions(images))
    chosen: dict[Identity, Detailed] = {}
    described: list[dict[str, Any]] = []
    for identity in tables.saes():
        reader = CodesReader(manifests[identity])
        cases = read_cases(images, reader.image_ids)
        chosen[identity] = found = detail(settings, tables, identity, reader, cases, split)
        where = folder / "data" / address(identity)
        name = address(identity)
        columns = layer_columns(tables, identity, found.latents, split)
        write_data(where / "table.js", f"table/{name}", columns)
        for number, part in shards(found.records).items():
            write_data(where / f"{number}.js", f"latents/{name}/{number}", part)
        for page, table in evidence_tables(tables, identity).items():
            write_data(where / f"{page}.js", f"{page}/{name}", table)
        described.append(
            {
                "address": name,
                "encoder": identity.encoder,
                "layer": identity.layer,
                "sae": identity.sae,
                "seed": identity.seed,
                "latents": reader.latents,
                "grid": grid_of(reader.grid),
            }
        )
    pool = sorted(set().union(*(found.images for found in chosen.values())))
    _write_images(tables, manifests, chosen, pool, folder, split)
    cases = read_table(images)
    facts = describe(store, cases, tables.concepts(), pool)
    write_data(folder / "data" / "images.js", "images", facts)
    if settings.images == "stored":
        write_pictures(store, pool, folder / "images")
    palette = style.colours(store.regions, style.CONCEPT_COLOURS)
    about = {
        "height": store.height,
        "width": store.width,
        "images": settings.images,
        "split": split,
        "concepts": tables.concepts(),
        "colours": palette,
        "saes": described,
    }
    write_data(folder / "data" / "run.js", "run", about)


def _write_images(
    tables: Tables,
    manifests: dict[Identity, Path],
    chosen: dict[Identity, Detailed],
    pool: Sequence[str],
    folder: Path,
    split: str,
) -> None:
    """Write one data file per shown image: all SAEs."""
    records: dict[str, dict[str, Any]] = {image: {} for image in pool}
    for identity, found in chosen.items():
        reader = CodesReader(manifests[identity])
        coded = set(reader.image_ids)
        held = [image for image in pool if image in coded]
        score = tables.of("latents", identity)["score"].iloc[0]
        added = read_contributions(reader, tables.of("effects", identity), split, held)
        for image, firing in read_firing(reader, score, found.latents, found.tops, held):
            records[image][address(identity)] = {"firing": firing, "adding": added[image]}
    for image, record in records.items():
        write_data(folder / "data" / "images" / f"{image}.js", f"image/{image}", record)


def _write_pages(
    tables: Tables,
    folder: Path,
    cohort: pd.DataFrame,
    registry: Path,
    content: str,
    split: str,
) -> None:
    concepts = tables.concepts()
    shared = {
        "concepts": concepts,
        "split": split,
        "saes": [(identity, address(identity)) for identity in tables.saes()],
    }
    settings = yaml.safe_dump(json.loads(content), sort_keys=False, allow_unicode=True, width=100)
    for page in PAGES:
        more: dict[str, Any] = {}
        if page == "index":
            more = {
                "findings": {concept: findings(tables, concept) for concept in concepts},
                "cohort": cohort_counts(cohort, concepts),
                "encoders": read_table(registry).fillna("").to_dict("records"),
                "quality": quality(tables),
                "configuration": settings,
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


def quality(tables: Tables) -> list[dict[str, Any]]:
    """Return a row per SAE: its address and its quality, beside its controls; missing as None."""
    names = ("explained_variance", "explained_variance_pca", "l0", "latents", "dead_share")
    rows = []
    for identity in tables.saes():
        mine = tables.of("sae_quality", identity)
        row = mine.iloc[0] if len(mine) else pd.Series(dtype=object)
        values = {name: None if pd.isna(row.get(name)) else row[name] for name in names}
        rows.append({"sae": identity, "address": address(identity), **values})
    return rows
