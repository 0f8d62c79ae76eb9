from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

from mammo_sae.encoders import linear_probe
from mammo_sae.encoders.description import IMAGENET, EncoderDescription
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.network import save_encoder
from mammo_sae.encoders.settings import LinearProbeSettings
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import write_table

N, D = 60, 4


def write_encoder(directory: Path, classifier: dict[str, tuple[np.ndarray, float]]) -> Path:
    """Write an encoder that has only the weights of its own classifier."""
    description = EncoderDescription(
        kind="pretrained",
        architecture="efficientnet-b2",
        normalisation=IMAGENET,
        classifier=tuple(classifier),
        source="test",
        licence="none",
        data="none",
    )
    state = {
        "classifier.weight": torch.tensor(np.array([w for w, _ in classifier.values()])),
        "classifier.bias": torch.tensor([b for _, b in classifier.values()]),
    }
    save_encoder(state, description, directory / "encoder.safetensors", directory / "encoder.json")
    return directory


@pytest.fixture
def features(tmp_path) -> tuple[np.ndarray, pd.DataFrame, list[Path], Path]:
    """Pooled features of two shards, whose channel 1 depends on the concept, and the cohort."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(N) % 3 == 0)
    values = rng.normal(5, 3, (N, D)).astype(np.float16)
    values[:, 1] += (4 * labels).astype(np.float16)
    values[:, 3] = 2.0
    ids = [f"image{i:02d}" for i in range(N)]
    manifests = []
    for shard, rows in enumerate((slice(0, 25), slice(25, N))):
        manifest = tmp_path / f"{shard}.json"
        grid = LayerGrid("pooled", D, 1, 1, 32, 0.0, 0.0, 32)
        with create_embedding_store(
            tmp_path / str(shard), manifest, image_ids=ids[rows], grids=[grid]
        ) as writer:
            writer.write({"pooled": values[rows].reshape(-1, 1, 1, D)})
        manifests.append(manifest)
    cohort = pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": [f"p{i // 2}" for i in range(N)],
            "split": "training",
            "mass": pd.array(labels.astype(int), dtype="Int8"),
        }
    ).sample(frac=1, random_state=0)
    path = tmp_path / "images.parquet"
    write_table(cohort, path)
    write_encoder(tmp_path / "encoder", {})
    return values, cohort, manifests, path


def run(manifests, cohort, directory, encoder=None, concepts=("mass",), **settings):
    linear_probe.run(
        LinearProbeSettings(**settings),
        concepts=concepts,
        images=cohort,
        encoder=encoder or directory.parent / "encoder",
        embeddings=manifests,
        head_weights=directory / "head.safetensors",
        head_description=directory / "head.json",
    )
    return load_head(directory)


def test_the_probe_minimises_the_balanced_penalised_loss(features, tmp_path):
    values, cohort, manifests, path = features
    head = run(manifests, path, tmp_path / "head", c=0.5)
    labels = cohort.sort_values("image_id")["mass"].to_numpy(int)
    x = values.astype(np.float64)
    deviation = np.where(x.std(0) == 0, 1, x.std(0))
    z = (x - x.mean(0)) / deviation
    weight = np.where(labels == 1, N / (2 * labels.sum()), N / (2 * (N - labels.sum())))

    def loss(parameters):
        margin = (2 * labels - 1) * (z @ parameters[:D] + parameters[D])
        fit = (weight * np.logaddexp(0, -margin)).sum()
        return 0.5 * fit + 0.5 * (parameters[:D] ** 2).sum()

    best = minimize(loss, np.zeros(D + 1), tol=1e-10).x
    expected = z @ best[:D] + best[D]
    np.testing.assert_allclose(head.logits(values)[:, 0], expected, atol=5e-3)


def test_images_without_a_store_have_no_row(features, tmp_path):
    _, cohort, manifests, path = features
    expected = run(manifests, path, tmp_path / "all")
    refused = cohort.iloc[:1].assign(image_id="refused", mass=1)
    write_table(pd.concat([refused, cohort]), path)
    found = run(manifests, path, tmp_path / "without")
    np.testing.assert_array_equal(found.weight, expected.weight)


def test_the_same_features_give_the_same_bytes(features, tmp_path):
    _, _, manifests, path = features
    for name in "ab":
        run(manifests, path, tmp_path / name)
    written = [(tmp_path / name / "head.safetensors").read_bytes() for name in "ab"]
    assert written[0] == written[1]


def test_unlabelled_images_do_not_count(features, tmp_path):
    values, cohort, manifests, path = features
    cohort = cohort.copy()
    cohort.loc[cohort.index[:6], "mass"] = pd.NA
    write_table(cohort, path)
    head = run(manifests, path, tmp_path / "head")
    assert np.isfinite(head.logits(values)).all()
    assert np.argmax(np.abs(head.weight[0])) == 1


def test_a_solver_that_does_not_converge_is_an_error(features, tmp_path):
    _, _, manifests, path = features
    with pytest.raises(InputError, match="probe of mass did not converge in 1 iterations"):
        run(manifests, path, tmp_path / "head", c=1e4, max_iterations=1)
    assert not (tmp_path / "head").exists()


def test_only_the_concepts_whose_probe_does_not_converge_are_named(features, tmp_path):
    _, cohort, manifests, path = features
    rng = np.random.default_rng(1)
    write_table(cohort.assign(other=rng.permutation(np.arange(N) % 2)), path)
    several = {"concepts": ["other", "mass"], "c": 0.5, "max_iterations": 11}
    with pytest.raises(InputError, match="probe of mass did not converge in 11 iterations"):
        run(manifests, path, tmp_path / "head", **several)


def test_a_solver_with_more_iterations_or_a_lower_c_converges_as_advised(features, tmp_path):
    values, cohort, manifests, path = features
    with pytest.raises(InputError, match=r"raise max_iterations or lower c$"):
        run(manifests, path, tmp_path / "head", c=1e4, max_iterations=8)
    labels = cohort.sort_values("image_id")["mass"].to_numpy(int)
    for name, right in (("more", {"c": 1e4, "max_iterations": 1000}),
                        ("lower", {"c": 1e-7, "max_iterations": 8})):  # fmt: skip
        logits = run(manifests, path, tmp_path / name, **right).logits(values)[:, 0]
        assert logits[labels == 1].mean() > logits[labels == 0].mean()


def test_a_classifier_published_with_the_encoder_is_taken_as_it_is(features, tmp_path):
    _, cohort, manifests, path = features
    weight = np.arange(D, dtype=np.float32)
    encoder = write_encoder(tmp_path / "published", {"mass": (weight, -2.5)})
    # Nothing is trained, so all labels may be missing.
    write_table(cohort.assign(mass=pd.array([None] * N, dtype="Int8")), path)
    head = run(manifests, path, tmp_path / "head", encoder=encoder)
    np.testing.assert_array_equal(head.weight[0], weight)
    assert head.bias[0] == -2.5
