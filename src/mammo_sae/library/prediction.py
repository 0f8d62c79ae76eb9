"""One image file through the whole chain: preprocessing, encoder, SAE and head.

Every step is the one that made the stores of the run, with the settings that the run's records
hold. Embeddings are rounded to float16 as in the stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.linear import latent_weights
from mammo_sae.compute.devices import fastest_device
from mammo_sae.dicom.canonical import Canonical, canonical_image
from mammo_sae.dicom.files import read_image
from mammo_sae.dicom.refusal import Refusal
from mammo_sae.dicom.triage import Expected, judge_header, judge_image
from mammo_sae.encoders.extract import to_store
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.plans.plan import HEAD, POOLED
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.images.settings import ConversionSettings
from mammo_sae.library.files import RunFiles
from mammo_sae.library.picture import Picture, picture
from mammo_sae.library.sae import Sae
from mammo_sae.report import overlay, style
from mammo_sae.sae.high_norm import short_cells
from mammo_sae.sae.model import SparseAutoencoder, check_channels
from mammo_sae.settings import canonical_json, parse_settings

OFFSET, ERROR = "offset", "error"
PICTURE = 1.9  # width of a picture in a figure, inches
CAPTION, TITLE = 0.36, 0.66  # heights, inches


@dataclass(frozen=True)
class Prediction:
    """What the run's networks find in one image. H x W canonical pixels, R x C cells.

    Attributes
    ----------
    identity
        The SAE.
    pixels
        The canonical image, uint8 [H, W].
    breast
        Its breast mask, bool [H, W].
    notes
        What is peculiar about the file, one sentence each.
    grid
        The positions of the layer's cells.
    logits
        The encoder's logit of each concept, computed from float16 features as in the run.
    fired
        A row for each latent that fires: its `max`, `mean` and `active` (share of cells) over all
        cells, strongest first.
    maps
        Their heat maps, float32 [latent, row, column]. Rows and columns have the coordinates `y`
        and `x` of the centre of the cell in canonical pixels. Cells above the SAE's norm limit, if
        it has one, are 0.
    """

    identity: Identity
    pixels: np.ndarray
    breast: np.ndarray
    notes: tuple[str, ...]
    grid: LayerGrid
    logits: pd.Series
    fired: pd.DataFrame
    maps: xr.DataArray
    _contributions: pd.DataFrame | str

    @property
    def contributions(self) -> pd.DataFrame:
        """What each part adds to each logit: rows are parts, columns are concepts.

        The rows are `offset` (the logit with all latents at 0), the latents that fire, and `error`
        (what the SAE does not reconstruct). A column sums to the logit.

        Raises
        ------
        InputError
            If the logits are not linear in the codes of this layer.
        """
        if isinstance(self._contributions, str):
            raise InputError(self._contributions)
        return self._contributions

    def show(self, latents: int = 4, concept: str | None = None) -> Picture:
        """Draw the image and the heat maps of some latents.

        Parameters
        ----------
        latents
            Number of heat maps.
        concept
            Show the latents that add most to or take most from this concept's logit. None: the
            latents with the highest codes.

        Raises
        ------
        InputError
            If there is no such concept, or contributions are not known (`contributions`).
        """
        chosen, captions = self._strongest(latents, concept)
        return picture(lambda path: self._draw(path, chosen, captions))

    def _strongest(self, count: int, concept: str | None) -> tuple[list[int], list[str]]:
        if concept is None:
            rows = self.fired.head(count)
            return rows["latent"].tolist(), [f"highest code {value:.2f}" for value in rows["max"]]
        if concept not in self.logits:
            known = ", ".join(self.logits.index)
            raise InputError(f"the head has no concept {concept!r}; choose one of {known}")
        parts = self.contributions[concept].drop([OFFSET, ERROR])
        parts = parts.loc[parts.abs().sort_values(ascending=False, kind="stable").index]
        parts = parts.head(count)
        return [int(at) for at in parts.index], [f"adds {value:+.2f}" for value in parts]

    def _draw(self, path: Path, chosen: list[int], captions: list[str]) -> None:
        height, width = self.pixels.shape
        tall, columns = PICTURE * height / width, len(chosen) + 1
        size = (0.12 + columns * (PICTURE + 0.06) + 0.06, TITLE + CAPTION + tall + 0.12)
        size = (max(size[0], 6.0), size[1])
        of = self.identity
        with style.figure(path, *size) as fig:
            logits = ", ".join(
                f"{style.words(name)} {value:.2f}" for name, value in self.logits.items()
            )
            subtitle = f"{of.encoder} · {of.layer} · SAE {of.sae} seed {of.seed}"
            style.heading(fig, f"Logits: {logits}", subtitle)
            titles = ["image", *(f"latent {latent}" for latent in chosen)]
            for column, (title, line) in enumerate(zip(titles, ["", *captions], strict=True)):
                left = 0.12 + column * (PICTURE + 0.06)
                box = (left / size[0], 0.12 / size[1], PICTURE / size[0], tall / size[1])
                ax = fig.add_axes(box)
                overlay.draw_image(ax, self.pixels)
                if column:
                    found = self.maps.sel(latent=chosen[column - 1]).to_numpy()
                    overlay.draw_map(ax, found, float(found.max()), self.grid)
                    overlay.frame(ax, height, width)
                for text, up, colour in ((title, 0.19, style.INK), (line, 0.04, style.FAINT)):
                    at = (left / size[0], (0.12 + tall + up) / size[1])
                    fig.text(*at, text, size=8, color=colour)


class Predictor:
    """Predicts with the networks of one run and one SAE. They stay in memory between images.

    Parameters
    ----------
    files
        The run.
    of
        The SAE.

    Raises
    ------
    InputError
        If a file of the run is missing or damaged.
    """

    def __init__(self, files: RunFiles, of: Identity) -> None:
        self._of = of
        manifest = files.image_stores[0]
        where = f"the record of {manifest}"
        text = canonical_json(files.settings_of(manifest))
        self._settings = parse_settings(ConversionSettings, text, where).images
        network = load_encoder(files.encoder(of.encoder))
        network.to(fastest_device(), getattr(torch, files.precision(of.encoder)))
        self._network = network
        self._head = load_head(files.head(of.encoder))
        self._grid = network.grid(of.layer, self._settings.height, self._settings.width)
        self._sae = Sae(SparseAutoencoder.load(files.sae(of)))
        check_channels(self._sae.model, self._grid, files.sae(of))

    def __call__(self, path: Path, side: str | None = None) -> Prediction:
        """Predict one DICOM, PNG, JPEG, TIFF or NPY file. `Run.predict` describes it."""
        if not path.exists():
            raise InputError(f"{path} is missing; give the file of an image")
        try:
            image, notes = self._canonical(path, side)
        except Refusal as refusal:
            raise InputError(f"{path} can't be used: {refusal}; give another image") from None
        cells, features = self._embedded(image.pixels)
        codes = self._sae.encode(cells)
        counted = self._counted(cells, codes)
        pooled = {
            "max": counted.max(axis=(0, 1)),
            "mean": codes.mean(axis=(0, 1), dtype=np.float64).astype(np.float32),
            "active": (codes > 0).mean(axis=(0, 1), dtype=np.float64).astype(np.float32),
        }
        fires = np.flatnonzero(pooled["active"] > 0)
        fired = pd.DataFrame({"latent": fires, **{k: v[fires] for k, v in pooled.items()}})
        logits = self._head.logits(features[None])[0]
        return Prediction(
            identity=self._of,
            pixels=image.pixels,
            breast=image.breast,
            notes=notes,
            grid=self._grid,
            logits=pd.Series(logits, index=list(self._head.concepts), name="logit"),
            fired=fired.sort_values("max", ascending=False, kind="stable", ignore_index=True),
            maps=self._maps(counted, fires),
            _contributions=self._contributions(codes, fires, logits),
        )

    def _counted(self, cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the codes [R, C, h], with 0 in the cells that scores and maps leave out."""
        short = short_cells(cells[None], self._sae.model.description)
        return codes if short is None else codes * short.reshape(*codes.shape[:2], 1)

    def _canonical(self, path: Path, side: str | None) -> tuple[Canonical, tuple[str, ...]]:
        """Return the canonical image, and what the run's policy lets pass with a warning."""
        header, stored = read_image(path)
        canonical = canonical_image(header, stored, self._settings)
        taken = header.acquisition
        # Without a side, none is contradicted: the breast lies where it lies.
        seen = "R" if canonical.lies_on_the_right else "L"
        expected = Expected(side=side or taken.side or seen, view=taken.view or "")
        policy = self._settings.triage
        found = judge_header(header, expected, policy) + judge_image(canonical, expected, policy)
        warned = [reason for reason in found if getattr(policy, reason.code) == "warn"]
        return canonical, tuple(reason.value[1] for reason in warned)

    @torch.inference_mode()
    def _embedded(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the layer's cells [R, C, d] and the pooled features [d], as stores hold them."""
        network, layer = self._network, self._of.layer
        x = network.normalise(torch.from_numpy(pixels[None]).to(network.device))
        maps = network.forward_layers(x, list(dict.fromkeys([layer, POOLED])))
        cells, _ = to_store(maps[layer])()
        features, _ = to_store(maps[POOLED])()
        if not (np.isfinite(cells).all() and np.isfinite(features).all()):
            raise InputError(
                f"layer {layer}: NaN or infinity in the embedding of the image; check the "
                "encoder's weights"
            )
        return cells[0].astype(np.float32), features[0, 0, 0].astype(np.float32)

    def _maps(self, codes: np.ndarray, fires: np.ndarray) -> xr.DataArray:
        grid = self._grid
        return xr.DataArray(
            np.moveaxis(codes[..., fires], -1, 0),
            dims=("latent", "row", "column"),
            coords={
                "latent": fires,
                "y": ("row", grid.offset_y + (np.arange(grid.rows) + 0.5) * grid.stride),
                "x": ("column", grid.offset_x + (np.arange(grid.columns) + 0.5) * grid.stride),
            },
            name="code",
        )

    def _contributions(
        self, codes: np.ndarray, fires: np.ndarray, logits: np.ndarray
    ) -> pd.DataFrame | str:
        """Return `Prediction.contributions`, or why there are none."""
        pooling = self._network.description.pooling
        if self._of.layer != HEAD or pooling != "mean":
            return (
                f"the logits are not linear in the codes of layer {self._of.layer} of encoder "
                f"{self._of.encoder}; ask for the layer {HEAD} of an encoder that averages cells"
            )
        means = codes.mean(axis=(0, 1), dtype=np.float64)[fires]
        bias = self._sae.model.decoder_bias.cpu().numpy()
        columns: dict[str, Any] = {}
        for concept, logit in zip(self._head.concepts, logits, strict=True):
            weights, offset = latent_weights(self._head, concept, self._sae.atoms, bias)
            added = means * weights[fires]
            error = float(logit) - offset - added.sum()
            columns[concept] = [offset, *added, error]
        return pd.DataFrame(columns, index=pd.Index([OFFSET, *fires.tolist(), ERROR], name="part"))
