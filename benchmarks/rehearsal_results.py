"""Write the results of a run up to the codes, with synthetic content in the real form and size.

Content repeats: a store holds PERIOD different images, and its other images are hard links to the
same chunks. 20,000 images of EfficientNet-B5 therefore need some gigabytes of disk and not 120.
Every reader sees a store of the full size. These properties are as in a real run:

- sizes: canonical images of 1520 x 912 pixels, the grids and channels of EfficientNet-B5's layers;
- firing: heavy-tailed over latents, different between images, with dead latents;
- planted latents that fire on the lesions, and latents that follow the manufacturer, which is
  associated with the concept `mass`;
- pooled codes are those of the stored cells.

These properties are not: embeddings repeat every EMBEDDED images and do not match the codes, and
chunks that repeat stay in the page cache, so reading is faster than from a disk.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr

from mammo_sae.cohorts.regions import REGIONS
from mammo_sae.cohorts.tables import validated_findings, validated_images
from mammo_sae.config import Config
from mammo_sae.encoders.description import MAMMO_CLIP, EncoderDescription
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.network import build, save_encoder
from mammo_sae.encoders.networks.network import Network
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.grids import LayerGrid, touched_cells
from mammo_sae.images.measurements import MEASUREMENTS
from mammo_sae.sae.codes import pool
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores import arrays, publish
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.publish import create_store, read_json, write_json
from mammo_sae.stores.tables import write_table

PERIOD = 1024  # different images
EMBEDDED = 64  # different embeddings
SHARD = 512  # images of a shard
VIEWS = [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")]  # the images of a patient
# Splits of the patients 0 to 9, 10 to 19, ...
SPLITS = (*("training",) * 4, "test", "training", "training", "external", "training", "test")
RATES = (0.12, 0.08)  # shares of the patients with the first and the second concept
MAKERS = ("First", "Second", "Third")
PLANTED = 8  # latents of each concept, and of a manufacturer
# What a manifest says about the files of its store. The rest describes the content.
ABOUT_FILES = {"format", "kind", "store", "digest", "files", "bytes", "checksum"}


def shards_of(images: int) -> int:
    """Return the number of shards of so many images."""
    return -(-images // SHARD)


class Results:
    """Writes the results of one configuration for `images` images, into the folder of the run.

    `templates` is a folder for the stores of PERIOD images. It must be on the same file system and
    is used again by other sizes.
    """

    def __init__(self, config: Config, images: int, templates: Path) -> None:
        self.config = config
        self.n = images
        self.templates = templates
        self.concepts = list(config.cohort.concepts)
        self.cases = cohort(images, self.concepts)
        # The images of one period, which the templates show.
        self.period = cohort(PERIOD, self.concepts)
        self.height, self.width = config.images.height, config.images.width

    def write(self) -> None:
        """Write everything up to the codes."""
        publish.file_digest = _digest_of_content  # type: ignore[attr-defined]
        self.write_tables()
        self.write_images()
        for number, encoder in enumerate(self.config.encoders):
            self.write_encoder(encoder, seed=number)
            for layer in (*self.config.layers, POOLED):
                self.write_embeddings(encoder, layer)
        for encoder, layer, (sae, settings) in itertools.product(
            self.config.encoders, self.config.layers, self.config.saes.items()
        ):
            if not settings.covers(encoder, layer):
                continue
            for seed in settings.seeds:
                run = f"{encoder}/{layer}/{sae}/seed{seed}"
                training = settings.training(layer, seed)
                self.write_sae(run, layer, training.latents, training.variant.k, seed)
                self.write_codes(run, layer, training.latents, training.variant.k)

    def write_tables(self) -> None:
        """Write the tables of the cohort, and random measurements."""
        folder = self.config.folder / "cohort"
        images = validated_images(self.cases, self.concepts)
        images.attrs[REGIONS] = {c: [of] for c, of in self.config.cohort.concepts.items()}
        write_table(images, folder / "images.parquet")
        write_table(images[["image_id", "split"]], folder / "splits.parquet")
        found = [
            {"image_id": image, "concept": concept}
            for concept in self.concepts
            for image in self.cases.loc[self.cases[concept] == 1, "image_id"]
        ]
        box = {"xmin": 1000.0, "ymin": 1000.0, "xmax": 1200.0, "ymax": 1200.0}
        write_table(
            validated_findings(pd.DataFrame(found).assign(**box), images),
            folder / "findings.parquet",
        )
        write_json(
            folder / "summary.json",
            {"kind": "cohort", "files_without_annotation": [], "malformed_rows": []},
        )
        random = np.random.default_rng(0)
        for shard, rows in self._shards():
            ids = self.cases["image_id"].iloc[rows]
            table = pd.DataFrame({"image_id": ids})
            for name in MEASUREMENTS:
                table[name] = random.gamma(2.0, 10.0, len(ids))
            write_table(
                table.assign(reason=""), self.config.folder / f"measurements/{shard}.parquet"
            )

    def write_images(self) -> None:
        """Write the image stores."""
        template = self.templates / f"images-{self.height}x{self.width}.zarr"
        if not template.exists():
            self._make_images(template)
        for shard, rows in self._shards():
            target = self.config.folder / f"images/{shard}.zarr"
            self._grow(template, target, rows)

    def _make_images(self, path: Path) -> None:
        with create_image_store(
            path, path.with_suffix(".json"), image_ids=[str(i) for i in range(PERIOD)],
            height=self.height, width=self.width,
            regions=list(self.config.cohort.concepts.values()),
        ) as store:  # fmt: skip
            pixels = np.zeros((self.height, self.width), np.uint8)
            breast = self.breast()
            pixels[breast] = 128
            for image in range(PERIOD):
                regions = np.zeros((len(self.concepts), self.height, self.width), bool)
                for place, concept in enumerate(self.concepts):
                    if self.period[concept].iloc[image] == 1:
                        regions[place][self.lesion(image)] = True
                store.write(image, ImageRecord(
                    pixels=pixels, breast=breast, regions=regions, affine=np.eye(2, 3),
                    flipped=False, spacing_mm=0.1,
                ))  # fmt: skip

    def breast(self) -> np.ndarray:
        """Return the mask [H, W] of all breasts: half an ellipse at the left edge."""
        y, x = np.ogrid[: self.height, : self.width]
        return (y / self.height * 2 - 1) ** 2 + (x / self.width / 0.8) ** 2 < 1

    def lesion(self, image: int) -> tuple[slice, slice]:
        """Return rows and columns of an image's lesion, a square inside the breast."""
        random = np.random.default_rng(image)
        y, x = random.uniform((0.3, 0.1), (0.6, 0.5)) * (self.height, self.width)
        edge = self.width // 9
        return slice(int(y), int(y) + edge), slice(int(x), int(x) + edge)

    def grid(self, layer: str) -> LayerGrid:
        """Return a layer's grid."""
        return _network(self.config.architecture(next(iter(self.config.encoders)))).grid(
            layer, self.height, self.width
        )

    def write_encoder(self, encoder: str, seed: int) -> None:
        """Write random weights, and a head that finds the concepts in the pooled features."""
        folder = self.config.folder / "encoders" / encoder
        network = _network(self.config.architecture(encoder))
        for suffix in ("safetensors", "json"):
            made = self.templates / f"encoder.{suffix}"
            if not made.exists():
                save_encoder(
                    network.state_dict(), network.description,
                    self.templates / "encoder.safetensors", self.templates / "encoder.json",
                )  # fmt: skip
            _link(made, folder / made.name)
        channels = self.grid(POOLED).channels
        random = np.random.default_rng(seed)
        weight = np.stack([_direction(concept, channels) for concept in self.concepts])
        weight += random.normal(0, 0.01, weight.shape)
        heads = self.config.folder / "heads" / encoder
        save_head(
            Head(weight.astype(np.float32), np.zeros(len(weight), np.float32), (*self.concepts,)),
            heads / "head.safetensors", heads / "head.json",
        )  # fmt: skip

    def write_embeddings(self, encoder: str, layer: str) -> None:
        """Write the embeddings of a layer, all shards."""
        grid = self.grid(layer)
        template = self.templates / f"embeddings-{layer}-{grid.rows}x{grid.columns}"
        count = EMBEDDED if layer != POOLED else PERIOD
        if not template.exists():
            random = np.random.default_rng(0)
            with create_embedding_store(
                template, template.with_suffix(".json"), image_ids=[str(i) for i in range(count)],
                grids=[grid],
            ) as store:  # fmt: skip
                for image in range(count):
                    shape = (1, grid.rows, grid.columns, grid.channels)
                    cells = random.standard_exponential(shape, dtype=np.float32)
                    for concept in self.concepts:
                        present = self.period[concept].iloc[image] == 1
                        cells += present * 20 * _direction(concept, grid.channels)
                    store.write({layer: cells})
        folder = self.config.folder / "embeddings" / encoder / layer
        if layer == POOLED:
            self._write_pooled(template, folder, grid)
            return
        for shard, rows in self._shards():
            self._grow(template, folder / str(shard), rows)

    def _write_pooled(self, template: Path, folder: Path, grid: LayerGrid) -> None:
        # One chunk file holds a whole shard, so it can't be linked in parts.
        stored = arrays.open_array(template / f"{POOLED}.zarr", "cells", streaming=True)
        cells = np.asarray(stored[:])
        for shard, rows in self._shards():
            ids = self.cases["image_id"].iloc[rows].tolist()
            path = folder / str(shard)
            with create_embedding_store(
                path, path.with_suffix(".json"), image_ids=ids, grids=[grid]
            ) as store:
                store.write({POOLED: cells[np.arange(rows.start, rows.stop) % PERIOD]})

    def write_sae(self, run: str, layer: str, latents: int, k: int, seed: int) -> None:
        """Write an SAE with random atoms, and the log of its training."""
        grid = self.grid(layer)
        torch.manual_seed(seed)
        atoms = torch.nn.functional.normalize(torch.randn(latents, grid.channels))
        folder = self.config.folder / "sae" / run
        SparseAutoencoder(
            encoder_weight=atoms.clone(), encoder_bias=torch.zeros(latents), decoder_weight=atoms,
            decoder_bias=torch.zeros(grid.channels), k=k, description={"grid": asdict(grid)},
        ).save(folder / "sae.safetensors", folder / "sae.json")  # fmt: skip
        columns = ("loss", "error", "explained_variance", "l0", "dead_share", "lr")
        steps = pd.DataFrame({"step": np.arange(1, 101) * 200})
        write_table(steps.assign(**dict.fromkeys(columns, 0.5)), folder / "history.csv")

    def write_codes(self, run: str, layer: str, latents: int, k: int) -> None:
        """Write the codes of one SAE."""
        grid = self.grid(layer)
        name = f"codes-{layer}-{grid.rows}x{grid.columns}-{latents}-{k}.zarr"
        # The codes of an inner layer are large, so fewer of them differ.
        count = PERIOD if layer == "head" else PERIOD // 8
        template = self.templates / name
        if not template.exists():
            with create_codes_store(
                template, template.with_suffix(".json"), image_ids=[str(i) for i in range(count)],
                grid=grid, latents=latents, k=k,
            ) as store:  # fmt: skip
                for image, index, value, pooled in self._codes(grid, latents, k, count):
                    store.write([image], index, value, pooled)
        target = self.config.folder / "codes" / f"{run}.zarr"
        self._grow(template, target, slice(0, self.n))

    def _codes(
        self, grid: LayerGrid, latents: int, k: int, count: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]:
        """Yield the number, the index and value [1, R, C, k] and the pooled codes of each image.

        Slot i of a cell has one of the latents i m to (i + 1) m - 1 with m = latents / k, so the
        latents of a cell differ and ascend.
        """
        random = np.random.default_rng(0)
        each = latents // k
        common = -1.2 * np.log(np.arange(1, each + 1))[random.permuted(_places(k, each), axis=1)]
        common[random.random((k, each)) < 0.05] = -np.inf  # dead
        breast = self.breast()[None]
        inside = torch.from_numpy(touched_cells(breast, grid).reshape(1, -1))
        cells = grid.rows * grid.columns
        for image in range(count):
            weight = common + random.standard_normal((k, each))
            maker = MAKERS.index(self.period["manufacturer"].iloc[image])
            weight[:PLANTED, 1 + maker] += 3.0
            below = np.cumsum(np.exp(weight), axis=1)
            below = (below / below[:, -1:] + np.arange(k)[:, None]).ravel()
            drawn = random.random((cells, k)) + np.arange(k)
            index = np.minimum(np.searchsorted(below, drawn), np.arange(1, k + 1) * each - 1)
            value = random.standard_exponential((cells, k), dtype=np.float32)
            for place, concept in enumerate(self.concepts):
                if self.period[concept].iloc[image] == 1:
                    mask = np.zeros_like(breast)
                    mask[0][self.lesion(image)] = True
                    on = np.flatnonzero(touched_cells(mask, grid).ravel())
                    slots = np.arange(PLANTED) + place * PLANTED
                    index[on[:, None], slots] = slots * each
                    value[on[:, None], slots] *= 3
            pooled = pool(torch.from_numpy(index), torch.from_numpy(value), inside, latents)
            shape = (1, grid.rows, grid.columns, k)
            yield image, index.reshape(shape), value.reshape(shape), pooled

    def _shards(self) -> Iterator[tuple[int, slice]]:
        for shard in range(shards_of(self.n)):
            yield shard, slice(shard * SHARD, min((shard + 1) * SHARD, self.n))

    def _grow(self, template: Path, target: Path, rows: slice) -> None:
        """Publish a store of the images `rows`, whose chunks are links to those of `template`."""
        manifest = read_json(template.with_suffix(".json"))
        ids = self.cases["image_id"].iloc[rows].tolist()
        described = {key: of for key, of in manifest.items() if key not in ABOUT_FILES}
        described["images"] = len(ids)
        roots = sorted(path.parent for path in template.rglob("image_id"))
        with create_store(
            target, target.with_suffix(".json"), kind=manifest["kind"], describe=described
        ) as aside:
            for root in roots:
                _grow_group(root, aside / root.relative_to(template), ids, rows.start)


def cohort(images: int, concepts: Sequence[str]) -> pd.DataFrame:
    """Return a table of images with four images per patient, in the order of the stores.

    Labels and manufacturers repeat every PERIOD images, so that they are those of the templates.
    """
    number = np.arange(images)
    patient = number // len(VIEWS)
    drawn = np.random.default_rng(0).random((3, PERIOD // len(VIEWS)))[:, patient % (PERIOD // 4)]
    present = [drawn[place] < rate for place, rate in enumerate(RATES)]
    maker = np.where(drawn[2] < np.where(present[0], 0.7, 0.4), 0, np.where(drawn[2] < 0.9, 1, 2))
    frame = pd.DataFrame(
        {
            "image_id": [f"{n:016x}" for n in number],
            "patient_id": [f"{p:016x}" for p in patient],
            "split": np.array(SPLITS)[patient % len(SPLITS)],
            "shard": number // SHARD,
            "side": [VIEWS[n % 4][0] for n in number],
            "view": [VIEWS[n % 4][1] for n in number],
            "density": np.array(list("ABCD"))[patient % 4],
            "birads": np.where(present[0], 4, 1),
            "manufacturer": np.array(MAKERS)[maker],
            "model": np.array(MAKERS)[maker],
            "rows": np.where(patient % 3, 3518, 2800),
            "columns": 2800,
            "pixel_spacing_mm": 0.085,
            "age_bin": np.array(["<40", "40-49", "50-59", "60-69"])[patient % 4],
        }
    )
    # A finding is on the left side.
    for concept, has in zip(concepts, present, strict=True):
        frame[concept] = (has & (frame["side"] == "L")).astype(int)
    return frame


def _places(rows: int, columns: int) -> np.ndarray:
    return np.tile(np.arange(columns), (rows, 1))


def _direction(concept: str, channels: int) -> np.ndarray:
    random = np.random.default_rng(list(concept.encode()))
    direction = random.standard_normal(channels)
    return (direction / np.linalg.norm(direction)).astype(np.float32)


@cache
def _network(architecture: str) -> Network:
    network = build(
        EncoderDescription(
            kind="pretrained", architecture=architecture, normalisation=MAMMO_CLIP,
            source="synthetic", licence="none", data="none",
        )
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            fan = max(1, weights[0].numel())
            weights.copy_(torch.randn(weights.shape) / fan**0.5 if weights.ndim > 1 else 0)
    return network


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(source, target)


def _grow_group(source: Path, target: Path, ids: Sequence[str], start: int) -> None:
    """Make a group whose arrays have the rows `start`, `start` + 1, ... of a template's arrays.

    The rows of the template repeat. `start` is the first row of a chunk file.
    """
    attributes = arrays.read_attributes(source)
    group = arrays.create_group(target, attributes)
    arrays.write_labels(group, "image_id", ids)
    for name, array in zarr.open_group(source, mode="r", zarr_format=3).arrays():
        if name == "image_id":
            continue
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("c"))
        by_image = array.metadata.dimension_names[0] == "image_id"
        size = (array.shards or array.chunks)[0]
        wanted = -(-len(ids) // size) if by_image else 1
        there = max(1, -(-array.shape[0] // size))
        for block in range(wanted):
            of = source / name / "c" / str((start // size + block) % there)
            for file in [of] if of.is_file() else [f for f in of.rglob("*") if f.is_file()]:
                _link(file, target / name / "c" / str(block) / file.relative_to(of))
        if by_image:
            described = publish.read_plain_json(target / name / "zarr.json")
            described["shape"][0] = len(ids)
            publish.write_plain_json(target / name / "zarr.json", described)
    arrays.consolidate(target)


_file_digest = publish.file_digest
_digests: dict[tuple[int, ...], str] = {}


def _digest_of_content(path: Path) -> str:
    """Return the digest of a file. Hard links to the same content are read once."""
    status: Any = path.stat()
    key = (status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _digests:
        _digests[key] = _file_digest(path)
    return _digests[key]
