"""Names of latents, in a constructed joint space whose names are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from copied import copied
from joint_world import World, make_world
from mammo_sae.analysis import exchange, joint_images, naming, phrase_images, wpmi
from mammo_sae.analysis.joint_images import (
    associations,
    chance,
    cosine_blocks,
    embedded_images,
    mean_vector,
)
from mammo_sae.analysis.phrase_images import PhraseTests, similarities, zero_shot
from mammo_sae.analysis.settings import NamingSettings
from mammo_sae.analysis.wpmi import best_images, log_likelihoods, phrase_probabilities
from mammo_sae.errors import InputError
from mammo_sae.regression import features as ft
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table, write_table
from mammo_sae.texts.joint import Joint, load_joint, save_joint, unit_rows

SETTINGS = NamingSettings(top_images=50, permutation_draws=199)


def name(world: World, folder, by: str, **changes) -> tuple[pd.DataFrame, pd.DataFrame]:
    paths = {"names": folder / "names.parquet", "by_phrase": folder / "by_phrase.parquet"}
    given = {
        "identity": world.identity,
        "images": world.images,
        "codes": world.codes,
        "phrases": world.phrases,
        "vectors": world.vectors,
        "embeddings": [world.embeddings],
        "labels": {"finding": "Finding"},
        "sae": world.sae if by == "direction" else None,
    }
    assert naming.run(SETTINGS, **{**given, **changes}, **paths) == list(paths.values())
    return read_table(paths["names"]), read_table(paths["by_phrase"])


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    return [make_world(folder / str(seed), seed) for seed in range(2)]


@pytest.mark.parametrize("by", ["images", "direction"])
def test_names_are_right_and_nameless_latents_get_none(worlds, tmp_path, by):
    found, right, named, nameless, passed, tested = 0, 0, 0, 0, 0, 0
    for world in worlds:
        table, phrases = name(world, tmp_path, by)
        has = (table["name"] != "").to_numpy()
        expected = np.array([world.phrase(latent) for latent in table["latent"]])
        found += has.sum()
        right += (has & world.named & (table["name"] == expected).to_numpy()).sum()
        named += world.named.sum()
        nameless += (has & ~world.named).sum()
        decoys = phrases[phrases["group"] == "decoy"]
        passed, tested = passed + decoys["passed"].sum(), tested + decoys["tested"].sum()
        assert (decoys["named"] == 0).all()
    assert right / found >= 0.9
    assert right / named >= 0.9
    assert nameless <= 0.05 * sum((~world.named).sum() for world in worlds)
    assert tested == sum(len(world.factor) for world in worlds)
    assert passed <= 0.05 * tested


def test_a_row_says_what_speaks_for_its_phrase(worlds, tmp_path):
    table, phrases = name(worlds[0], tmp_path, "direction")
    row = table.iloc[0]
    assert (row["name"], row["best"], row["method"]) == ("factor 0", "factor 0", "direction")
    assert row["label"] == "finding"
    assert row["zero_shot_auroc_low"] > 0.9
    assert row["auroc_low"] > 0.5
    assert row["score"] == pytest.approx(row["cosine"], abs=1e-6) != row["runner_up_score"]
    assert row["cosine"] > row["chance_cosine"] > row["decoy_score"]
    assert row["p"] == max(row["p_chance"], row["p_images"])
    assert row["p"] <= row["q"] < 0.05
    assert phrases.set_index("phrase").loc["factor 0", ["column", "named"]].tolist() == [
        "finding",
        3,
    ]


def test_an_exact_direction_is_that_of_the_projected_atom(worlds):
    joint = load_joint(worlds[0].phrases, worlds[0].vectors)
    atoms = np.eye(96, dtype=np.float32)[:5]
    expected = joint.projection.weight[:, :5].T
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(joint.directions(atoms), expected, atol=1e-6)
    # An image moves by exactly W d_t if its features move by d_t; the bias is not part of it.
    features = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    weight, bias = joint.projection.weight, joint.projection.bias
    moved = (features + atoms) @ weight.T + bias - (features @ weight.T + bias)
    np.testing.assert_allclose(unit_rows(moved), expected, atol=1e-5)


def test_a_phrase_that_misses_its_own_label_is_no_name(worlds, tmp_path):
    world = worlds[0]
    table = read_table(world.images)
    table["finding"] = np.random.default_rng(5).integers(0, 2, len(table))
    path = tmp_path / "images.parquet"
    write_table(table, path)
    found, phrases = name(world, tmp_path, "direction", images=path)
    assert phrases["zero_shot_auroc_low"].iloc[0] < 0.5
    assert (found["name"].iloc[:3] == "").all()
    assert found["reason"].iloc[:3].str.contains("its own label").all()
    assert found["name"].iloc[3] == "factor 1"


def test_a_decoy_that_fits_better_takes_the_name_away(worlds, tmp_path):
    world = worlds[0]
    joint = load_joint(world.phrases, world.vectors)
    table = joint.table.copy()
    table.loc[0, "group"] = "decoy"
    phrases, vectors = tmp_path / "p.parquet", tmp_path / "v.safetensors"
    save_joint(Joint(table, joint.vectors, joint.projection), phrases, vectors)
    found, by_phrase = name(world, tmp_path, "images", phrases=phrases, vectors=vectors)
    assert (found["name"].iloc[:3] == "").all()
    assert (found["decoy"].iloc[:3] == "factor 0").all()
    assert (found["reason"].iloc[:3] == "the decoy has a higher score").all()
    assert by_phrase.set_index("phrase").loc["factor 0", "passed"] >= 3


def test_without_decoys_latents_are_named_all_the_same(worlds, tmp_path):
    world = worlds[0]
    joint = load_joint(world.phrases, world.vectors)
    kept = ~joint.decoys
    phrases, vectors = tmp_path / "p.parquet", tmp_path / "v.safetensors"
    table = joint.table[kept].reset_index(drop=True)
    save_joint(Joint(table, joint.vectors[kept], joint.projection), phrases, vectors)
    found, _ = name(world, tmp_path, "direction", phrases=phrases, vectors=vectors)
    assert (found["decoy"] == "").all()
    assert found["decoy_q"].isna().all()
    assert (found["name"] != "").sum() == world.named.sum()


def test_a_rare_latent_is_not_tested(worlds, tmp_path, monkeypatch):
    monkeypatch.setattr("mammo_sae.analysis.naming.st.MIN_POSITIVES", 10_000)
    table, phrases = name(worlds[0], tmp_path, "images")
    assert (table["name"] == "").all()
    assert set(table["reason"]) == {"training: it fires in images of fewer than 10000 patients"}
    assert phrases["tested"].sum() == 0


def test_phrases_of_another_space_are_refused(worlds, tmp_path):
    joint = load_joint(worlds[0].phrases, worlds[0].vectors)
    phrases, vectors = tmp_path / "p.parquet", tmp_path / "v.safetensors"
    save_joint(Joint(joint.table, joint.vectors, None), phrases, vectors)
    with pytest.raises(InputError, match=r"96 features .* takes 64; set text\.encoder"):
        name(worlds[0], tmp_path, "images", phrases=phrases, vectors=vectors)


def test_the_score_of_a_phrase_is_its_likelihood_in_the_best_images():
    cosines = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.8], [0.5, 0.5]])
    p = phrase_probabilities(cosines, 10.0)
    expected = np.exp(10 * cosines) / np.exp(10 * cosines).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    scores = np.array([[0.0, 2.0, 0.0, 5.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    best = best_images(copied(scores.T.astype(np.float32)), 2)
    assert best.tolist() == [[3, 1], [0, -1], [-1, -1]]
    found, found_prior = log_likelihoods(best, [(np.arange(4), p)], 2)
    inside = 0.998, 0.984
    first = sum(
        np.log(1 + q * (expected[image] - 1) + 1e-7)
        for q, image in zip(inside, (3, 1), strict=True)
    )
    np.testing.assert_allclose(found[0], first, rtol=1e-4)
    # A latent that fires in one image only has this one, for both.
    np.testing.assert_allclose(
        found[1], 2 * np.log(1 + 0.998 * (expected[0] - 1) + 1e-7), rtol=1e-3
    )
    assert (found[2] == 0).all()
    prior = sum(np.log(1 + q * (expected - 1) + 1e-7).mean(axis=0) for q in inside)
    np.testing.assert_allclose(found_prior, prior, rtol=1e-4)


def test_images_with_the_same_score_count_in_their_order():
    scores = np.array([[1, 2, 2, 2, 0, 3], [0, 1, 1, 1, 1, 1], [0, 0, 5, 0, 0, 4]], np.float32)
    found = best_images(copied(scores.T), 3)
    assert found.tolist() == [[5, 1, 2], [1, 2, 3], [2, 5, -1]]
    assert best_images(copied(scores.T), 9).shape == (3, 6)


@pytest.fixture(params=["one block", "several blocks", "a file"])
def size(request, monkeypatch):
    """Sizes of blocks with which the products, sums and ranks below are computed."""
    if request.param == "one block":
        return
    if request.param == "a file":
        monkeypatch.setattr(ft, "MEMORY", 100)
    monkeypatch.setattr(ft, "BLOCK", 4 * 40 * 8 * 4)  # 40 images of 8 dimensions
    monkeypatch.setattr(wpmi, "VALUES", 5 * 7)
    monkeypatch.setattr(joint_images, "VALUES", 300)
    monkeypatch.setattr(joint_images, "RANKS", 5 * 300)
    monkeypatch.setattr(phrase_images, "VALUES", 3 * 300)


def shuffled(vectors: np.ndarray) -> ft.DenseRows:
    """Return `vectors` [n, d] in parts of 20 images, in another order."""
    order = np.random.default_rng(9).permutation(len(vectors))

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(order), 20):
            yield vectors[order[start : start + 20]]

    return ft.DenseRows(parts(), order, np.float32)


def made(images: int = 300, phrases: int = 7, latents: int = 12):
    rng = np.random.default_rng(3)
    vectors = unit_rows(rng.normal(size=(images, 8)) + 1)
    scores = (rng.random((images, latents)) * (rng.random((images, latents)) < 0.3)).round(1)
    return vectors, unit_rows(rng.normal(size=(phrases, 8))), scores.astype(np.float32)


def test_likelihoods_and_prior_are_those_of_all_images_at_once(size):
    vectors, contrasts, scores = made()
    scores[:, 4] = 0.0
    embedded = shuffled(vectors)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    cosines = centred / np.linalg.norm(centred, axis=1, keepdims=True) @ contrasts.T
    p = np.exp(10 * cosines) / np.exp(10 * cosines).sum(axis=1, keepdims=True)
    blocks = [
        (images, phrase_probabilities(some, 10.0))
        for images, some in cosine_blocks(embedded, contrasts, mean_vector(embedded))
    ]
    top = 110  # some latents fire in fewer images
    found, prior = log_likelihoods(best_images(copied(scores), top), blocks, 7)
    inside = 0.998 - np.arange(top) / top * 0.028
    expected = np.zeros((12, 7))
    for latent, values in enumerate(scores.T):
        best = np.argsort(-values, kind="stable")[:top]
        best = best[values[best] > 0]
        for place, image in enumerate(best):
            expected[latent] += np.log(1 + inside[place] * (p[image] - 1) + 1e-7)
        expected[latent] *= top / max(1, len(best))
    assert (found[4] == 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    of_images = sum(np.log(1 + one * (p - 1) + 1e-7).mean(axis=0) for one in inside)
    np.testing.assert_allclose(prior, of_images, rtol=1e-4)


def test_associations_are_covariances_of_ranks_with_all_vectors(size):
    vectors, _, scores = made()
    expected = (rankdata(scores, axis=0) - 150.5).T @ (vectors - vectors.mean(axis=0))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(associations(copied(scores), shuffled(vectors)), expected, atol=1e-5)


def test_similarities_are_the_products_of_all_images_and_phrases(size, tmp_path):
    vectors, contrasts, _ = made()
    found = similarities(shuffled(vectors), contrasts, tmp_path)
    assert found.latents == 7
    expected = contrasts @ vectors.T
    np.testing.assert_allclose(found.of(np.arange(7)), expected, atol=1e-6)
    some = np.array([200, 3])
    np.testing.assert_allclose(found.of(np.array([5]), some)[0], expected[5, some], atol=1e-6)


def test_latents_of_a_phrase_are_tested_as_if_they_were_one_block(size, tmp_path):
    vectors, contrasts, scores = made()
    patients = np.arange(300) // 3
    scores[:, 0] += 3 * (vectors @ contrasts[2]).clip(0)
    similarity = similarities(shuffled(vectors), contrasts, tmp_path)
    tests = PhraseTests(SETTINGS, similarity, copied(scores), patients, np.full(300, "L"))
    latents, phrases = np.array([5, 0, 3, 8, 7, 1, 9]), np.array([2, 2, 2, 2, 4, 2, 2])
    found = tests.of(latents, phrases, 24)
    for phrase in (2, 4):
        similar = vectors @ contrasts[phrase]
        rows = np.flatnonzero(phrases == phrase)
        p = exchange.patient_permutation_p(
            scores[:, latents[rows]],
            similar >= np.quantile(similar, 0.8),
            patients,
            draws=199,
            seed=SETTINGS.seed,
            breasts=np.full(300, "L"),
            tests=int(np.ceil(24 * len(rows) / 7)),
        )
        np.testing.assert_array_equal(found["p_images"].to_numpy()[rows], p)
    assert found["auroc"].idxmax() == 1
    assert found["auroc_low"][1] > 0.5


def test_images_are_embedded_in_the_order_of_their_ids(worlds):
    world = worlds[0]
    joint = load_joint(world.phrases, world.vectors)
    ids = world.table["image_id"].tolist()[5:60][::-1]
    reader = EmbeddingReader([world.embeddings], "pooled", ids)
    stored = dict(zip(reader.image_ids, np.arange(len(ids)), strict=True))
    features = np.concatenate([cells[:, 0, 0] for _, cells in reader.batches(7)])
    places = np.concatenate([positions for positions, _ in reader.batches(7)])
    expected = joint.embedded(features[np.argsort(places)][[stored[image] for image in ids]])
    found = np.zeros_like(expected)
    for images, block in embedded_images([world.embeddings], ids, joint).blocks():
        assert block.dtype == np.float32
        found[images] = block
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert embedded_images([world.embeddings], [], joint).shape == (0, 64)


def test_the_direction_of_a_latent_points_to_the_phrase_that_its_ranks_follow():
    rng = np.random.default_rng(0)
    embedded = rng.normal(size=(300, 8)).astype(np.float32) + 5
    scores = np.stack([np.exp(embedded[:, 2]), -embedded[:, 5], np.ones(300)], axis=1)
    found = associations(copied(scores), ft.DenseRows([embedded], precision=np.float32))
    assert found[0].argmax() == 2
    assert found[0, 2] > 0.95
    assert found[1, 5] < -0.95
    assert (found[2] == 0).all()


def test_chance_is_uniform_for_directions_like_all_others():
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(16, 16)) + 1
    directions = unit_rows(rng.normal(size=(2000, 16)) @ mixing)
    contrasts = unit_rows(rng.normal(size=(30, 16)))
    nearest = (directions @ contrasts.T).max(axis=1)
    found = chance(directions, contrasts, nearest, draws=5000, seed=0, tests=1)
    for level in (0.05, 0.2, 0.5, 0.8):
        assert (found.p <= level).mean() == pytest.approx(level, abs=0.05)
    assert (nearest > found.typical).mean() == pytest.approx(0.05, abs=0.03)


def test_a_single_near_latent_among_many_can_be_significant():
    rng = np.random.default_rng(2)
    directions = unit_rows(rng.normal(size=(500, 32)))
    contrasts = unit_rows(rng.normal(size=(10, 32)))
    cosines = np.zeros(500)
    cosines[7] = 0.999
    few = chance(directions, contrasts, cosines, draws=200, seed=0, tests=1)
    many = chance(directions, contrasts, cosines, draws=200, seed=0, tests=1000)
    assert few.p[7] == 1 / 201
    assert many.p[7] == 1 / 25_001
    assert many.p[0] == pytest.approx(few.p[0], abs=0.02)


def test_a_label_that_no_image_has_gives_no_zero_shot_score():
    cases = pd.DataFrame({"patient_id": ["a"] * 30, "finding": 1, "marker": 0})
    phrases = pd.DataFrame({"label": ["Finding", "marker", "", "unknown"]})
    found = zero_shot(SETTINGS, phrases, copied(np.zeros((30, 4))), cases, {"finding": "Finding"})
    assert found["column"].tolist() == ["finding", "marker", "", ""]
    assert found["zero_shot_auroc"].isna().all()
    assert found["zero_shot_reason"].tolist() == [
        "1 patient with a positive image, fewer than 10",
        "0 patients with a positive image, fewer than 10",
        "",
        "",
    ]


def test_the_images_of_a_phrase_are_those_most_like_it():
    similarity = copied(np.arange(20.0)[:, None])
    tests = PhraseTests(SETTINGS, similarity, None, np.arange(20), np.full(20, "L"))
    assert np.flatnonzero(tests.images_of(0)).tolist() == [16, 17, 18, 19]
