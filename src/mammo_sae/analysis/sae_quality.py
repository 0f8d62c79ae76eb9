"""Step: measure how well one SAE represents its layer, on images it was not trained on.

Let x be the embeddings of a split's cells, x_hat their reconstructions from the stored codes, and m
the mean of x:

    explained variance = 1 - sum ||x - x_hat||^2 / sum ||x - m||^2      (raw units)
    L0                 = mean number of active latents per cell
    density of latent  = share of cells where it is active; dead: density 0
    splice             = the rest of the network, run from x_hat instead of x

Two baselines use the same number k = round(L0) of coefficients per cell: the first k principal
components of cells of training images, and the k channels that deviate most from their mean. The
cells are evenly spaced ones of at most `PCA_IMAGES` evenly spaced images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mammo_sae import statistics
from mammo_sae.analysis.cases import Identity, labelled, labels, read_cases
from mammo_sae.analysis.selectivity import Autocorrelation, monosemanticity
from mammo_sae.compute.devices import fastest_device
from mammo_sae.encoders.heads import Head, load_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.networks.network import Network, to_map
from mammo_sae.errors import InputError
from mammo_sae.progress import progress
from mammo_sae.regression.features import DenseRows
from mammo_sae.sae.model import SparseAutoencoder, check_channels
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.splits import TRAINING, split_reader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import QualitySettings

CELLS_PER_BATCH = 8192
PCA_IMAGES = 2048  # training images that give the principal components
PCA_CELLS = 1 << 20  # cells of these images that are used, at most about twice as many
RECONSTRUCTIONS = ("explained_variance", "explained_variance_pca", "explained_variance_channels")
# Edges of a histogram of log10(density), in steps of 0.5 from -5 to 0. The first bin also holds
# lower densities, but not dead latents.
DENSITY_EDGES = np.arange(-5.0, 0.5, 0.5)


def run(
    settings: QualitySettings,
    *,
    identity: Identity,
    images: Path,
    sae: Path,
    codes: Path,
    encoder: Path,
    head: Path,
    embeddings: Sequence[Path],
    output: Path,
) -> list[Path]:
    """Score a trained SAE: explained variance, sparsity, and the AUROC lost by splicing it in.

    Parameters
    ----------
    images
        Image table.
    sae, codes
        Description (`sae.json`) of the SAE and manifest of its codes.
    encoder, head
        Directories of the encoder and of its head.
    embeddings
        Manifests of the layer's embedding stores, one per shard.
    output
        Table to write: identity, explained_variance (also of the baselines), l0, dead_share,
        density and decoder-cosine quantiles, quantiles of the latents' monosemanticity (also with
        shuffled images) and spatial autocorrelation. For each concept of the head: auroc (original
        and spliced), auroc_lost with its patient-bootstrap interval, and logit_mse. If the split
        has no image, the numbers are missing and `reason` says why.

    Raises
    ------
    InputError
        If SAE, codes and embeddings have different layers or sizes.
    """
    layer = identity.layer
    model = SparseAutoencoder.load(sae).to(fastest_device())
    stored = CodesReader(codes)
    cohort = read_table(images)
    if not cohort.loc[cohort["split"] == settings.split, "image_id"].isin(stored.image_ids).any():
        row: dict[str, Any] = {"split": settings.split, "images": 0, "latents": model.latents}
        row |= dict.fromkeys((*RECONSTRUCTIONS, "l0", "dead_share"), np.nan)
        row |= {"reason": f"no image of split {settings.split}"}
        write_table(identity.label(pd.DataFrame([row])), output)
        return [output]
    reader = split_reader(embeddings, layer, images, settings.split)
    check_channels(model, reader.grid, sae)
    if (stored.latents, stored.grid.layer) != (model.latents, layer):
        raise InputError(
            f"{codes} holds {stored.latents} latents of layer {stored.grid.layer}, {sae} "
            f"{model.latents} of {layer}; encode again"
        )
    density = np.zeros(stored.latents)
    for ids in stored.image_blocks(reader.image_ids):
        density += stored.pooled("active", ids).sum(axis=0, dtype=np.float64) / len(reader)
    l0 = float(density.sum())
    training = split_reader(embeddings, layer, images, TRAINING)
    baselines = Baselines.fit(EmbeddingReader(embeddings, layer, sampled(training)), l0)
    network = load_encoder(encoder).to(model.device)
    weights = load_head(head)
    errors, logits, pooled, autocorrelation = _pass(
        model, stored, reader, network, weights, baselines
    )

    row = {"split": settings.split, "images": len(reader)}
    for name, error in errors.items():
        row[name] = 1 - error.residual / error.variance
    row |= {"l0": l0, "latents": model.latents, "dead_share": float((density == 0).mean())}
    row |= _density(density)
    row |= decoder_cosines(model.decoder_weight)
    row |= _selectivity(pooled, stored, reader.image_ids, autocorrelation, settings.seed)
    cases = read_cases(images, reader.image_ids)
    for column, concept in enumerate(weights.concepts):
        pair = {name: values[:, column] for name, values in logits.items()}
        row |= _fidelity(settings, cases, concept, pair)
    row["reason"] = ""
    write_table(identity.label(pd.DataFrame([row])), output)
    return [output]


@dataclass
class Error:
    """Sums of squares for one reconstruction: its errors, and the centred embeddings."""

    residual: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class Baselines:
    """Reconstructions without an SAE, from `count` (the rounded L0) coefficients per cell.

    Attributes
    ----------
    mean [d]
        Mean of the training cells.
    components [count, d]
        Their first principal components, orthonormal rows.
    """

    mean: Tensor
    components: Tensor

    @classmethod
    def fit(cls, reader: EmbeddingReader, l0: float) -> Baselines:
        """Compute mean and principal components of evenly spaced cells of a reader, in one pass."""
        device, channels = fastest_device(), reader.grid.channels
        count = min(max(1, round(l0)), channels)
        total = torch.zeros(channels, dtype=torch.float64, device=device)
        products = torch.zeros(channels, channels, dtype=torch.float64, device=device)
        cells, shift = 0, None
        step = max(1, len(reader) * reader.grid.rows * reader.grid.columns // PCA_CELLS)
        for _, every in _cells(reader, device, "principal components"):
            x = every[::step]
            # Subtracting a typical cell first avoids cancellation in the sums of products.
            shift = x.mean(dim=0) if shift is None else shift
            x = x - shift
            total += x.sum(dim=0, dtype=torch.float64)
            products += x.t() @ x
            cells += len(x)
        centre = total / cells
        covariance = products / cells - torch.outer(centre, centre)
        components = torch.linalg.eigh(covariance).eigenvectors[:, -count:].t()
        assert shift is not None  # a reader has at least one image
        return cls((centre + shift).float(), components.float())

    def principal(self, x: Tensor) -> Tensor:
        """Return the projection of x [n, d] onto the components."""
        return (x - self.mean) @ self.components.t() @ self.components + self.mean

    def channels(self, x: Tensor) -> Tensor:
        """Return x [n, d] with only the `count` most deviating channels of each row kept.

        The other channels are set to their mean.
        """
        deviation = x - self.mean
        kept = deviation.abs().topk(len(self.components), dim=1).indices
        return torch.zeros_like(x).scatter_(1, kept, deviation.gather(1, kept)) + self.mean


def decoder_cosines(atoms: Tensor) -> dict[str, float]:
    """Return quantiles, over atoms [h, d], of each atom's largest cosine with another.

    Atoms that are 0 have no direction and are left out.
    """
    length = atoms.norm(dim=1, keepdim=True)
    unit = (atoms / length)[length.squeeze(1) > 0]
    largest = torch.empty(len(unit), device=unit.device)
    for start in range(0, len(unit), 1024):
        cosine = unit[start : start + 1024] @ unit.t()
        own = torch.arange(len(cosine), device=unit.device)
        cosine[own, start + own] = -1
        largest[start : start + 1024] = cosine.amax(dim=1)
    values = np.quantile(largest.cpu().numpy(), [0.5, 0.9, 0.99])
    names = ("decoder_cosine_q50", "decoder_cosine_q90", "decoder_cosine_q99")
    return dict(zip(names, map(float, values), strict=True))


def _pass(
    model: SparseAutoencoder,
    stored: CodesReader,
    reader: EmbeddingReader,
    network: Network,
    head: Head,
    baselines: Baselines,
) -> tuple[dict[str, Error], dict[str, np.ndarray], DenseRows, np.ndarray]:
    """Read embeddings and codes once, and return what the scores need from them.

    Returns
    -------
    dict
        Name of a reconstruction -> its sums of squares.
    dict
        ``original`` and ``spliced`` -> logits [n, concepts] without and with the SAE.
    DenseRows : [n, d']
        Pooled features without the SAE.
    numpy.ndarray : [h]
        Spatial autocorrelation of the latents.
    """
    grid = reader.grid
    maps = Autocorrelation(model.latents, grid.rows, grid.columns)
    names = RECONSTRUCTIONS
    errors = {name: Error() for name in names}
    logits = {name: np.empty((len(reader), len(head.concepts))) for name in ("original", "spliced")}
    mean, order = _mean(reader, model.device), list[int]()

    def pooled() -> Iterator[np.ndarray]:
        for positions, x in _cells(reader, model.device, f"quality {grid.layer}"):
            codes = stored.cells([stored.position(reader.image_ids[i]) for i in positions])
            maps.add(*codes)
            index, value = (
                torch.from_numpy(part.reshape(len(x), -1)).to(model.device) for part in codes
            )
            rebuilt = model.decode(index.long(), value)
            variance = _squares(x - mean)
            reconstructions = (rebuilt, baselines.principal(x), baselines.channels(x))
            for name, reconstruction in zip(names, reconstructions, strict=True):
                errors[name].residual += _squares(x - reconstruction)
                errors[name].variance += variance
            shape = (len(positions), grid.rows, grid.columns, grid.channels)
            prefix = reader.prefix(positions)
            beside = None if prefix is None else torch.from_numpy(prefix).to(model.device)
            features = []
            for cells, found in zip((x, rebuilt), logits.values(), strict=True):
                with torch.inference_mode():
                    rest = network.rest(grid.layer, to_map(cells.view(shape), prefix=beside))
                features.append(rest.cpu().numpy())
                found[positions] = head.logits(features[-1])
            order.extend(positions)
            yield features[0]

    features = DenseRows(pooled(), order)
    return errors, logits, features, maps.result()


def sampled(reader: EmbeddingReader) -> list[str]:
    """Return the ids of evenly spaced images of `reader`, at most `PCA_IMAGES`."""
    places = np.linspace(0, len(reader) - 1, min(PCA_IMAGES, len(reader))).round().astype(int)
    return [reader.image_ids[i] for i in places]


def _selectivity(
    features: DenseRows,
    codes: CodesReader,
    image_ids: Sequence[str],
    autocorrelation: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Return quantiles over latents of monosemanticity and autocorrelation.

    Monosemanticity is computed from the largest code of each latent in each image, and also given
    with shuffled images. `features` [n, d'] are the encoder's pooled features.
    """
    count = features.shape[0]
    moved = np.argsort(np.random.default_rng(seed).permutation(count))
    scores = {
        "monosemanticity": np.empty(codes.latents),
        "monosemanticity_shuffled": np.empty(codes.latents),
        "autocorrelation": autocorrelation,
    }
    for latents in codes.latent_blocks(count):
        highest = codes.pooled("max", image_ids, latents)
        scores["monosemanticity"][latents] = monosemanticity(features, highest)
        scores["monosemanticity_shuffled"][latents] = monosemanticity(features, highest[moved])
    row = {}
    for name, values in scores.items():
        known = values[~np.isnan(values)]
        for q in (0.5, 0.9):
            row[f"{name}_q{round(100 * q)}"] = (
                float(np.quantile(known, q)) if len(known) else np.nan
            )
    return row


def _fidelity(
    settings: QualitySettings, cases: pd.DataFrame, concept: str, logits: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Return one concept's columns: AUROC lost by splicing, with interval, and logit error."""
    difference = logits["spliced"].astype(np.float64) - logits["original"]
    row: dict[str, Any] = {
        f"logit_mse_{concept}": float(np.square(difference).mean()),
        f"logit_variance_{concept}": float(logits["original"].var(dtype=np.float64)),
    }
    known = labelled(cases, concept, settings.split)
    truth = labels(cases, concept, known)
    patients = cases["patient_id"].to_numpy()[known]
    reason = statistics.why_not_estimable(truth, patients)
    names = [f"auroc_{concept}", f"auroc_spliced_{concept}", f"auroc_lost_{concept}"]
    if reason:
        return row | dict.fromkeys([*names, f"{names[2]}_low", f"{names[2]}_high"], np.nan)
    scores = np.stack([logits["original"][known], logits["spliced"][known]], axis=1)
    original, spliced = statistics.auroc(scores, truth)
    drawn = statistics.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    draws = drawn.of(partial(statistics.auroc, scores, truth))
    low, high = statistics.interval(draws[0] - draws[1])
    values = (original, spliced, original - spliced)
    return (
        row
        | dict(zip(names, map(float, values), strict=True))
        | {
            f"{names[2]}_low": low,
            f"{names[2]}_high": high,
        }
    )


def _density(density: np.ndarray) -> dict[str, Any]:
    """Return quantiles and histogram of the latents' densities."""
    row: dict[str, Any] = {
        f"density_q{round(100 * q):02d}": float(np.quantile(density, q)) for q in (0.05, 0.5, 0.95)
    }
    alive = np.log10(np.maximum(density[density > 0], 10 ** DENSITY_EDGES[0]))
    row["density_histogram"] = np.histogram(alive, DENSITY_EDGES)[0].tolist()
    return row


def _cells(
    reader: EmbeddingReader, device: torch.device, label: str
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield batches in stored order: the positions of images, and their cells float32 [m, d]."""
    size = max(1, CELLS_PER_BATCH // (reader.grid.rows * reader.grid.columns))
    total = sum(-(-len(block[-1]) // size) for block in reader.blocks)
    for positions, cells in progress(reader.batches(size), label=label, total=total):
        flat = torch.from_numpy(cells.reshape(-1, reader.grid.channels))
        yield positions, flat.to(device, torch.float32)


def _mean(reader: EmbeddingReader, device: torch.device) -> Tensor:
    """Return the mean [d] of a reader's cells."""
    total = torch.zeros(reader.grid.channels, dtype=torch.float64, device=device)
    cells = 0
    for _, x in _cells(reader, device, "mean"):
        total += x.sum(dim=0, dtype=torch.float64)
        cells += len(x)
    return (total / cells).float()


def _squares(x: Tensor) -> float:
    return float(x.square().sum(dtype=torch.float64))
