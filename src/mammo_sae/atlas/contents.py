"""Write the data files and the pictures of an atlas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mammo_sae.analysis.cases import Identity, read_cases
from mammo_sae.atlas import neighbours
from mammo_sae.atlas.choice import TOP
from mammo_sae.atlas.evidence import evidence_tables
from mammo_sae.atlas.heat import grid_of
from mammo_sae.atlas.images import Linear, read_contributions, read_firing, read_linear
from mammo_sae.atlas.latents import Detailed, detail
from mammo_sae.atlas.outlines import BREAST, BREAST_COLOUR, write_outlines
from mammo_sae.atlas.pictures import describe, write_pictures
from mammo_sae.atlas.quality import QUALITY, beside_controls, quality
from mammo_sae.atlas.records import layer_columns, shards
from mammo_sae.atlas.scripts import write_data
from mammo_sae.atlas.seeds import other_seeds
from mammo_sae.atlas.sentences import Finding, address, findings
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.atlas.tables import Tables
from mammo_sae.report import style
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table

PAGES = 1000  # images with a page, at most: those that most latents show
# Bytes of all files. Pictures and pages of images share what the data of the SAEs leave.
ROOM = 145_000_000
PICTURES = 0.75  # share of this room for pictures
OPENING = 4  # latents per concept and SAE whose first image is on the start page


@dataclass(frozen=True)
class Sources:
    """The files of a run that the atlas reads.

    Attributes
    ----------
    images
        Image table.
    codes, saes
        SAE -> manifest of its codes, and its description.
    heads, predictions
        Encoder -> directory of its head, and table of its logits.
    bases
        Encoder -> the encoder that it was fine-tuned from, or None.
    split
        The split whose images are shown.
    """

    images: Path
    codes: Mapping[Identity, Path]
    saes: Mapping[Identity, Path]
    heads: Mapping[str, Path]
    predictions: Mapping[str, Path]
    bases: Mapping[str, str | None]
    split: str


def write_contents(
    settings: AtlasSettings, tables: Tables, sources: Sources, store: ImageReader, folder: Path
) -> None:
    """Write all data files into `folder`/data, and the pictures into `folder`/images."""
    data = folder / "data"
    chosen: dict[Identity, Detailed] = {}
    for identity in tables.saes():
        reader = CodesReader(sources.codes[identity])
        cases = read_cases(sources.images, reader.image_ids)
        chosen[identity] = detail(settings, tables, identity, reader, cases, sources.split)
    _add_neighbours(tables, sources, chosen, data)
    for identity, found in chosen.items():
        _write_sae(tables, identity, found, sources.split, data)
    opening = _opening(tables, chosen)
    first = [one["image"] for shown in opening.values() for one in shown]
    pool = by_use(first, [found.images for found in chosen.values()])
    stored: set[str] = set()
    shown = pool
    if settings.images == "stored":
        room = int(PICTURES * room_left(folder))
        stored = write_pictures(store, pool, folder / "images", room)
        shown = [image for image in pool if image in stored]
    colours = {BREAST: BREAST_COLOUR} | style.colours(store.regions, style.CONCEPT_COLOURS)
    write_outlines(store, [one for one in pool if one in stored], colours, folder / "outlines")
    cohort = read_table(sources.images)
    facts = describe(store, cohort, tables.concepts(), pool, stored, shown[:PAGES])
    # Written before the pages of images too, which take the room that is left.
    _write_facts(facts, opening, first, data)
    pages = set(_write_images(tables, sources, chosen, shown[:PAGES], folder))
    for image, known in facts.items():
        known["page"] = image in pages
    _write_facts(facts, opening, first, data)
    _write_run(settings, tables, sources, store, colours, data)


def _write_facts(
    facts: Mapping[str, Any],
    opening: Mapping[str, list[dict[str, Any]]],
    first: Sequence[str],
    data: Path,
) -> None:
    """Write the facts of all images, and the pictures of the start page with theirs."""
    write_data(data / "images.js", "images", facts)
    start = {"pictures": opening, "images": {image: facts[image] for image in first}}
    write_data(data / "start.js", "start", start)


def room_left(folder: Path) -> int:
    """Return how many bytes may still be written into the atlas."""
    return max(0, ROOM - sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def by_use(first: Sequence[str], uses: Sequence[Mapping[str, int]]) -> list[str]:
    """Return all images: `first`, then those that most latents show; by name if equally many do."""
    count: Counter[str] = Counter()
    for one in uses:
        count.update(one)
    rest = sorted(count, key=lambda image: (-count[image], image))
    return list(dict.fromkeys([*first, *rest]))


def _add_neighbours(
    tables: Tables, sources: Sources, chosen: Mapping[Identity, Detailed], data: Path
) -> None:
    """Add to each latent's record the neighbours of its atom and of its activation.

    For the comparison of two SAEs, the best match of each latent in every other SAE is written.
    """
    readers = {identity: CodesReader(sources.codes[identity]) for identity in chosen}
    common = set.intersection(*(set(reader.image_ids) for reader in readers.values()))
    cohort = read_table(sources.images)
    mine = cohort[(cohort["split"] == sources.split) & cohort["image_id"].isin(common)]
    images = neighbours.sample(mine["image_id"].tolist())
    activity: dict[Identity, tuple[np.ndarray, np.ndarray]] = {}
    for identity, found in chosen.items():
        score = tables.of("latents", identity)["score"].iloc[0]
        scores = neighbours.standardised(readers[identity], score, found.latents, images)
        activity[identity] = found.latents, scores
    for identity, found in chosen.items():
        others = neighbours.comparable(identity, list(chosen), sources.bases)
        nearest = neighbours.nearest_atoms(sources.saes, identity, found.latents, others)
        related = [address(other) for other in others if other != identity]
        matches = _by_activation(tables, identity, found.latents)
        matches |= neighbours.cosine_matches(nearest, related)
        write_data(data / address(identity) / "nearest.js", f"nearest/{address(identity)}", matches)
        together = neighbours.firing_together(activity, identity)
        seeds = other_seeds(tables, identity, others, nearest)
        for latent, record in found.records.items():
            record["sections"] |= neighbours.sections_of(nearest[latent], together[latent])
            if latent in seeds:
                record["sections"]["seeds"] = seeds[latent]


def _by_activation(
    tables: Tables, identity: Identity, latents: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return other SAE -> matches of the latents there, from the table `activation_matches`."""
    rows = tables.of("activation_matches", identity)
    if rows.empty:
        return {}
    return {
        address(replace(identity, encoder=str(encoder))): neighbours.activation_matches(pairs)
        for encoder, pairs in rows[rows["latent"].isin(latents)].groupby("reference")
    }


def _write_sae(tables: Tables, identity: Identity, found: Detailed, split: str, data: Path) -> None:
    name = address(identity)
    columns = layer_columns(tables, identity, found.latents, split)
    write_data(data / name / "table.js", f"table/{name}", columns)
    write_data(data / name / "controls.js", f"controls/{name}", beside_controls(tables, identity))
    for number, part in shards(found.records).items():
        write_data(data / name / f"{number}.js", f"latents/{name}/{number}", part)
    for page, table in evidence_tables(tables, identity).items():
        write_data(data / name / f"{page}.js", f"{page}/{name}", table)


def _opening(
    tables: Tables, chosen: Mapping[Identity, Detailed]
) -> dict[str, list[dict[str, Any]]]:
    """Return concept and SAE -> the images on the start page: the first of each top latent."""
    found = {}
    for concept in tables.concepts():
        for finding in findings(tables, concept):
            if finding.first:
                shown = _first_images(chosen[finding.identity], finding)
                found[f"{concept}/{finding.address}"] = shown
    return found


def _first_images(found: Detailed, finding: Finding) -> list[dict[str, Any]]:
    shown = []
    for row in finding.best[:OPENING]:
        record = found.records.get(row.latent)
        groups = {group["kind"]: group["images"] for group in record["groups"]} if record else {}
        for one in groups.get(TOP, [])[:1]:
            shown.append({"latent": row.latent, "image": one["image"], "heat": one["heat"]})
    return shown


def _write_images(
    tables: Tables,
    sources: Sources,
    chosen: Mapping[Identity, Detailed],
    pages: Sequence[str],
    folder: Path,
) -> list[str]:
    """Write one data file per image with a page: all SAEs. Return the images that had room."""
    records: dict[str, dict[str, Any]] = {image: {} for image in pages}
    for identity, found in chosen.items():
        reader = CodesReader(sources.codes[identity])
        coded = set(reader.image_ids)
        held = [image for image in pages if image in coded]
        score = tables.of("latents", identity)["score"].iloc[0]
        added = read_contributions(reader, _linear(tables, sources, identity), held)
        for image, firing in read_firing(reader, score, found.latents, found.tops, held):
            records[image][address(identity)] = {"firing": firing, "adding": added[image]}
    room, written = room_left(folder), []
    for image, record in records.items():
        file = folder / "data" / "images" / f"{image}.js"
        write_data(file, f"image/{image}", record)
        room -= file.stat().st_size
        if room < 0:
            file.unlink()
            break
        written.append(image)
    return written


def _linear(tables: Tables, sources: Sources, identity: Identity) -> dict[str, Linear]:
    """Return concept -> its logits as a function of an SAE's codes; empty if it has no effects."""
    encoder = identity.encoder
    if tables.of("effects", identity).empty or encoder not in sources.heads:
        return {}
    head, logits = sources.heads[encoder], sources.predictions[encoder]
    return read_linear(sources.saes[identity], head, logits, tables.concepts())


def _write_run(
    settings: AtlasSettings,
    tables: Tables,
    sources: Sources,
    store: ImageReader,
    colours: Mapping[str, str],
    data: Path,
) -> None:
    saes = []
    measures = {row["address"]: row for row in quality(tables)}
    for identity in tables.saes():
        reader = CodesReader(sources.codes[identity])
        size: dict[str, Any] = {"latents": reader.latents, "grid": grid_of(reader.grid)}
        measured = measures[address(identity)]
        size["quality"] = {name: measured[name] for name in (*QUALITY, "lost")}
        size["control"] = measured["control"]
        saes.append({"address": address(identity), **asdict(identity), **size})
    first = [
        finding.address for concept in tables.concepts() for finding in findings(tables, concept)
    ]
    about = {
        "height": store.height,
        "width": store.width,
        "images": settings.images,
        "split": sources.split,
        "concepts": tables.concepts(),
        "colours": colours,
        "verdicts": style.VERDICT_COLOURS,
        "first": first[0] if first else saes[0]["address"],
        "saes": saes,
    }
    write_data(data / "run.js", "run", about)
