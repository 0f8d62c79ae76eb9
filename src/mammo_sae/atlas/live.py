"""Answer from the stores of a run what the pages of a served atlas ask for.

Static pages show some latents of each SAE and some images. A served page can show all of them. It
asks for these addresses, in which SAE stands for <encoder>/<layer>/<sae>/<seed>:

- `live/latent/<SAE>/<latent>`: what the page of a latent shows, except its neighbours;
- `live/ranked/<SAE>/<latent>/<start>`: the next images by activation;
- `live/image/<image>`: facts of an image, and what each latent adds to its logits;
- `live/firing/<SAE>/<image>/<start>`: the next latents that fire in an image, with heat maps;
- `live/map/<SAE>/<image>/<latent>`: one latent in one image;
- `images/<image>.webp`, `outlines/<image>.png`: the picture of an image, and its outlines.

Answers are JSON with the numbers of the static data files. The stores are only read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote

import numpy as np

from mammo_sae.analysis.cases import Identity, labelled_images, labels
from mammo_sae.atlas.choice import main_concepts
from mammo_sae.atlas.heat import packed
from mammo_sae.atlas.images import Linear, firing_of, read_contributions, read_linear
from mammo_sae.atlas.latents import detail_of
from mammo_sae.atlas.outlines import read_outlines
from mammo_sae.atlas.pictures import describe, webp
from mammo_sae.atlas.scripts import plain
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.atlas.stored import Stored

IMAGES, LATENTS = 24, 12  # in one answer
LIVE = b"ATLAS.run.live = true;\n"  # what a served page reads behind the facts of the run
JSON, SCRIPT = "application/json", "text/javascript"
SUFFIX = {"images": ".webp", "outlines": ".png"}


class UnknownAddress(Exception):
    """There is nothing at the address. The text is a sentence that says why."""


class Live:
    """The stores of a run, opened when a page asks for them. One answer is made at a time.

    Parameters
    ----------
    atlas
        Folder of the atlas, within the folder of its run.

    Raises
    ------
    InputError
        If a store or table that the atlas was built from is not in the folder of the run.
    """

    def __init__(self, atlas: Path) -> None:
        self._run = Stored(atlas)
        self._about = self._run.about
        self._lock = Lock()
        self._held = cache(lambda identity: frozenset(self._run.reader(identity).image_ids))
        self._tops = cache(self._read_tops)
        self._linear = cache(self._read_linear)

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Return the media type and the content of an address; None if it is that of a file.

        Parameters
        ----------
        path
            The address behind the host's name, as it was asked for.

        Raises
        ------
        UnknownAddress
            If the run has no such SAE, latent or image.
        StoreError
            If a store is damaged.
        """
        kind, *parts = [unquote(part) for part in path.lstrip("/").split("/")]
        with self._lock:
            if [kind, *parts] == ["data", "run.js"]:
                return SCRIPT, (self._run.atlas / "data" / "run.js").read_bytes() + LIVE
            if kind in ("images", "outlines") and len(parts) == 1:
                return self._picture(kind, parts[0])
            if kind != "live":
                return None
            known: dict[tuple[str, int], Callable[..., dict[str, Any]]] = {
                ("latent", 5): self._latent,
                ("ranked", 6): self._ranked,
                ("firing", 6): self._firing,
                ("map", 6): self._map,
            }
            what, *rest = parts or [""]
            if what == "image" and len(rest) == 1:
                found = self._image(self._known_image(rest[0]))
            elif (what, len(rest)) in known:
                identity = self._run.saes.get("/".join(rest[:4]))
                if identity is None:
                    raise UnknownAddress(f"No SAE {'/'.join(rest[:4])} is in this atlas.")
                found = known[what, len(rest)](identity, *rest[4:])
            else:
                raise UnknownAddress(f"The pages have no address {path}.")
            return JSON, json.dumps(plain(found), allow_nan=False).encode()

    def _picture(self, kind: str, name: str) -> tuple[str, bytes]:
        if self._about["images"] == "none":
            raise UnknownAddress("This atlas was built without pixels.")
        image = name.removesuffix(SUFFIX[kind])
        if image == name:
            raise UnknownAddress(f"The atlas has no picture {name}.")
        ids = [self._known_image(image)]
        if kind == "outlines":
            return "image/png", read_outlines(self._run.store, ids, self._about["colours"])[0]
        return "image/webp", webp(self._run.store.pixels(ids)[0])

    def _known_image(self, image: str) -> str:
        if image not in self._shown:
            raise UnknownAddress(f"No image {image} is in this run.")
        return image

    @cached_property
    def _shown(self) -> frozenset[str]:
        """The images that have a picture and codes."""
        coded = frozenset[str]().union(*map(self._held, self._run.saes.values()))
        return coded & set(self._run.store.image_ids)

    def _known_latent(self, identity: Identity, text: str) -> int:
        count = self._run.reader(identity).latents
        latent = _decimal(text)
        if latent is None or latent >= count:
            raise UnknownAddress(f"No latent {text}; this SAE has latents 0 to {count - 1}.")
        return latent

    def _facts(self, image_ids: Sequence[str]) -> dict[str, Any]:
        ids = list(dict.fromkeys(image_ids))
        stored = ids if self._about["images"] == "stored" else ()
        return describe(
            self._run.store, self._run.cohort, self._about["concepts"], ids, stored, ids
        )

    def _latent(self, identity: Identity, text: str) -> dict[str, Any]:
        latent = self._known_latent(identity, text)
        found = detail_of(
            AtlasSettings(),
            self._run.tables,
            identity,
            self._run.reader(identity),
            self._run.cases(identity),
            self._about["split"],
            np.array([latent]),
        )
        return {"record": found.records[latent], "images": self._facts(list(found.images))}

    def _ranked(self, identity: Identity, text: str, start: str) -> dict[str, Any]:
        """Return the next images of a latent: of the split, with a label, by activation."""
        latent, first = self._known_latent(identity, text), _number(start)
        reader, cases = self._run.reader(identity), self._run.cases(identity)
        rows = self._run.tables.of("latents", identity)
        concept = main_concepts(rows[rows["latent"] == latent])[latent]
        known = labelled_images(cases, concept, self._about["split"])
        ids = [reader.image_ids[position] for position in known]
        scores = reader.pooled(self._run.score(identity), ids, [latent])[:, 0]
        truth = labels(cases, concept, known)
        top = float(scores.max(initial=0))
        chosen = np.argsort(-scores, kind="stable")[first : first + IMAGES]
        maps = reader.maps(known[chosen], [latent])[:, 0]
        images = [
            {
                "image": ids[i],
                "positive": bool(truth[i]),
                "activation": float(scores[i]),
                "heat": packed(one, top),
            }
            for i, one in zip(chosen, maps, strict=True)
        ]
        return {
            "ranked": images,
            "total": len(ids),
            "images": self._facts([one["image"] for one in images]),
        }

    def _image(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for address, identity in self._run.saes.items():
            if image in self._held(identity):
                reader, linear = self._run.reader(identity), self._linear(identity)
                found[address] = {"adding": read_contributions(reader, linear, [image])[image]}
        return {"record": found, "images": self._facts([image])}

    def _read_linear(self, identity: Identity) -> dict[str, Linear]:
        head = self._run.run / "heads" / identity.encoder
        if self._run.tables.of("effects", identity).empty or not (head / "head.json").is_file():
            return {}
        return read_linear(
            self._run.sae(identity),
            head,
            head / "predictions.parquet",
            self._about["concepts"],
        )

    def _firing(self, identity: Identity, image: str, start: str) -> dict[str, Any]:
        """Return the next latents of an image, by the share of their highest activation."""
        reader, first = self._run.reader(identity), _number(start)
        position, tops = self._position(identity, image), self._tops(identity)
        scores = reader.pooled(self._run.score(identity), [image])[0]
        strength = np.where(tops > 0, scores / np.where(tops > 0, tops, 1), 0)
        fires = np.flatnonzero(scores > 0)
        order = fires[np.lexsort((-scores[fires], -strength[fires]))]
        chosen = order[first : first + LATENTS]
        return {"firing": self._fired(identity, position, chosen, scores), "total": len(fires)}

    def _map(self, identity: Identity, image: str, text: str) -> dict[str, Any]:
        latent, position = self._known_latent(identity, text), self._position(identity, image)
        scores = self._run.reader(identity).pooled(self._run.score(identity), [image])[0]
        return {"firing": self._fired(identity, position, np.array([latent]), scores)}

    def _fired(
        self, identity: Identity, position: int, latents: np.ndarray, scores: np.ndarray
    ) -> list[dict[str, Any]]:
        tops, maps = self._tops(identity), self._run.reader(identity).maps([position], latents)[0]
        return [
            firing_of(int(latent), scores[latent], tops[latent], packed(one, tops[latent]))
            for latent, one in zip(latents, maps, strict=True)
        ]

    def _position(self, identity: Identity, image: str) -> int:
        if self._known_image(image) not in self._held(identity):
            raise UnknownAddress(f"Image {image} has no codes of this SAE.")
        return self._run.reader(identity).position(image)

    def _read_tops(self, identity: Identity) -> np.ndarray:
        """Return the highest activation of each latent [h] in the split, as the static pages do."""
        reader, cases = self._run.reader(identity), self._run.cases(identity)
        tops = np.zeros(reader.latents)
        concepts = main_concepts(self._run.tables.of("latents", identity))
        for concept in dict.fromkeys(concepts.values()):
            mine = [latent for latent, name in concepts.items() if name == concept]
            known = labelled_images(cases, concept, self._about["split"])
            ids = [reader.image_ids[position] for position in known]
            for some in reader.latent_blocks(len(ids), mine):
                scores = reader.pooled(self._run.score(identity), ids, some)
                tops[some] = scores.max(axis=0, initial=0)
        return tops


def _number(text: str) -> int:
    number = _decimal(text)
    if number is None:
        raise UnknownAddress(f"{text} is no number of entries to leave out.")
    return number


def _decimal(text: str) -> int | None:
    """Return a number of at most nine digits; None if the text is anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
