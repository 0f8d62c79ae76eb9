from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from mammo_sae.encoders import extract, finetune
from mammo_sae.encoders.heads import Head, load_head, save_head
from mammo_sae.encoders.network import load_encoder, save_encoder
from mammo_sae.encoders.settings import (
    ExtractionSettings,
    FinetunedSettings,
    MammoClipRecipe,
)
from mammo_sae.errors import InputError
from mammo_sae.statistics import auroc
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import write_table
from tuning import head_of_zeros, tune

OUTPUTS = ["encoder.safetensors", "encoder.json", "head.safetensors", "head.json", "log.csv"]


def predict(directory: Path, images: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    network, head, source = load_encoder(directory), load_head(directory), ImageReader(images)
    with torch.inference_mode():
        pooled = network(network.normalise(torch.from_numpy(source.pixels()))).numpy()
    truth = np.array([int(image.rsplit("-", 1)[1]) % 2 for image in source.image_ids])
    return head.logits(pooled)[:, 0], truth


def test_a_planted_blob_is_learnt_and_found_in_other_images(lite0, cached, image_store, tmp_path):
    cohort, _, embeddings = cached
    directory = tune(tmp_path / "finetuned", lite0, cohort, embeddings, epochs=5)
    unseen, _ = image_store("7", count=40)
    assert auroc(*predict(directory, [unseen])) > 0.95
    losses = pd.read_csv(directory / "log.csv")["loss"]
    assert losses.iloc[-1] < 0.5 * losses.iloc[1]


def test_the_head_starts_as_the_bases_and_the_log_as_its_score(lite0, cached, tmp_path):
    cohort, images, embeddings = cached
    weight = np.random.default_rng(0).standard_normal((1, 1280)).astype(np.float32)
    base = Head(weight, np.array([0.5], np.float32), ("mass",))
    (tmp_path / "h").mkdir()
    save_head(base, tmp_path / "h" / "head.safetensors", tmp_path / "h" / "head.json")
    directory = tune(
        tmp_path / "a", lite0, cohort, embeddings, head=tmp_path / "h", epochs=1, lr=1e-12,
        head_lr=1e-12, weight_decay=0,
    )  # fmt: skip
    np.testing.assert_allclose(load_head(directory).weight, weight, atol=1e-6)
    shutil.copy(lite0 / "encoder.safetensors", tmp_path / "h")
    shutil.copy(lite0 / "encoder.json", tmp_path / "h")
    log = pd.read_csv(directory / "log.csv")
    assert log["epoch"].tolist() == [0, 1]
    assert np.isnan(log["loss"][0])
    assert log["auroc_mass"][0] == pytest.approx(auroc(*predict(tmp_path / "h", images)), abs=0.01)


def test_training_goes_on_until_the_concept_has_been_learnt(lite0, cached, tmp_path, capsys):
    cohort, _, embeddings = cached
    learnt = tune(tmp_path / "a", lite0, cohort, embeddings, epochs=5, most_cycles=3)
    assert len(pd.read_csv(learnt / "log.csv")) == 1 + 5
    assert "has not learnt" not in capsys.readouterr().err
    # At these rates the head stays random.
    weight = np.random.default_rng(0).standard_normal((1, 1280)).astype(np.float32)
    (tmp_path / "h").mkdir()
    save_head(
        Head(weight, np.zeros(1, np.float32), ("mass",)),
        tmp_path / "h" / "head.safetensors",
        tmp_path / "h" / "head.json",
    )
    idle = tune(
        tmp_path / "b", lite0, cohort, embeddings, head=tmp_path / "h", epochs=1, most_cycles=3,
        lr=1e-12, head_lr=1e-12,
    )  # fmt: skip
    assert len(pd.read_csv(idle / "log.csv")) == 1 + 3
    assert "fine-tuning has not learnt mass: the AUROC" in capsys.readouterr().err


def test_a_head_without_the_concept_is_refused(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    (tmp_path / "h").mkdir()
    head = Head(np.zeros((1, 1280), np.float32), np.zeros(1, np.float32), ("cyst",))
    save_head(head, tmp_path / "h" / "head.safetensors", tmp_path / "h" / "head.json")
    with pytest.raises(InputError, match="no concept 'mass', only cyst"):
        tune(tmp_path / "a", lite0, cohort, embeddings, head=tmp_path / "h")


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    first, again, other = (
        tune(tmp_path / name, lite0, cohort, embeddings, epochs=1, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for name in OUTPUTS:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    weights = [(d / "encoder.safetensors").read_bytes() for d in (first, other)]
    assert weights[0] != weights[1]


def test_frozen_layers_stay_the_same_and_all_later_layers_are_trained(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    directory = tune(tmp_path / "finetuned", lite0, cohort, embeddings, epochs=1)
    before, after = load_encoder(lite0).state_dict(), load_encoder(directory).state_dict()
    frozen = ("stem.", *(f"blocks.{i}." for i in range(5)))
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith(frozen), name
    description = load_encoder(directory).description
    assert (description.kind, description.cached) == ("finetuned", "blocks.4")
    assert "48 training images" in description.data


def test_without_a_frozen_part_the_whole_network_is_trained_from_the_images(
    lite0, cached, tmp_path
):
    cohort, images, _ = cached
    directory = tune(tmp_path / "finetuned", lite0, cohort, images, freeze=None, epochs=1)
    before, after = load_encoder(lite0).state_dict(), load_encoder(directory).state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert load_encoder(directory).description.cached is None


def test_images_without_a_label_and_of_other_splits_do_not_count(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    table = pd.read_parquet(cohort)
    table.loc[:5, "mass"] = pd.NA
    table.loc[6:9, "split"] = "test"
    write_table(table, cohort)
    directory = tune(tmp_path / "a", lite0, cohort, embeddings, epochs=1)
    assert np.isfinite(load_head(directory).weight).all()
    # The labels change where they do not count, so the result is the same.
    table.loc[6:9, "mass"] = 1
    write_table(table, cohort)
    again = tune(tmp_path / "b", lite0, cohort, embeddings, epochs=1)
    for name in OUTPUTS[:-1]:
        assert (directory / name).read_bytes() == (again / name).read_bytes()


def test_a_concept_without_positives_is_refused_and_nothing_is_written(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    table = pd.read_parquet(cohort)
    table["mass"] = 0
    write_table(table, cohort)
    with pytest.raises(InputError, match=r"images\.parquet: split training has 0 positive"):
        tune(tmp_path / "finetuned", lite0, cohort, embeddings)
    assert not (tmp_path / "finetuned").exists()


def test_a_diverging_run_is_stopped_and_nothing_is_written(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    with pytest.raises(InputError, match="diverged at step"):
        tune(tmp_path / "finetuned", lite0, cohort, embeddings, lr=1e38, head_lr=1e38)
    assert not (tmp_path / "finetuned").exists()


@pytest.mark.parametrize(
    ("wrong", "lower"),
    [({"lr": 1e38}, {"lr": 3e-4}), ({"head_lr": 1e38}, {"head_lr": 3e-3})],
)
def test_a_diverging_run_with_a_rate_that_is_lowered_as_advised_ends(
    lite0, cached, tmp_path, wrong, lower
):
    cohort, _, embeddings = cached
    with pytest.raises(InputError, match=r"diverged .*; lower the recipe's lr or head_lr$"):
        tune(tmp_path / "a", lite0, cohort, embeddings, **wrong)
    directory = tune(tmp_path / "a", lite0, cohort, embeddings, **wrong | lower)
    assert np.isfinite(load_head(directory).weight).all()
    assert pd.read_csv(directory / "log.csv")["loss"].notna().any()


def test_with_fewer_frozen_layers_as_advised_something_is_trained(lite0, cached, tmp_path):
    cohort, images, _ = cached
    maps = {}
    for layer in ("head", "blocks.14"):
        maps[layer] = []
        for manifest in images:
            path = tmp_path / layer / manifest.stem
            maps[layer].append(path.with_suffix(".json"))
            extract.run(
                ExtractionSettings(),
                encoder=lite0,
                layers=[layer],
                image_store=manifest,
                store=path,
                manifest=maps[layer][-1],
            )
    with pytest.raises(InputError, match=r"nothing is left to train .*; freeze fewer layers"):
        tune(tmp_path / "a", lite0, cohort, maps["head"], freeze="head")
    directory = tune(tmp_path / "a", lite0, cohort, maps["blocks.14"], freeze="blocks.14")
    before, after = load_encoder(lite0), load_encoder(directory)
    assert torch.equal(after.blocks[14].project.weight, before.blocks[14].project.weight)
    assert not torch.equal(after.head.weight, before.head.weight)


def test_maps_beyond_float16_are_no_obstacle_where_nothing_is_frozen(lite0, cached, tmp_path):
    cohort, images, _ = cached
    network = load_encoder(lite0)
    network.blocks[4].project.weight.mul_(1e5)
    large, maps = tmp_path / "large", []
    save_encoder(
        network.state_dict(),
        network.description,
        large / "encoder.safetensors",
        large / "encoder.json",
    )
    for manifest in images:
        path = tmp_path / "wide" / manifest.stem
        maps.append(path.with_suffix(".json"))
        extract.run(
            ExtractionSettings(),
            encoder=large,
            layers=["blocks.3", "blocks.4"],
            image_store=manifest,
            store=path,
            manifest=maps[-1],
        )
    with pytest.raises(InputError, match="set freeze to another layer or to null"):
        tune(tmp_path / "a", large, cohort, maps)
    for name, stores, freeze in (("b", maps, "blocks.3"), ("c", images, None)):
        directory = tune(tmp_path / name, large, cohort, stores, freeze=freeze, epochs=1)
        assert load_head(directory).concepts == ("mass",)


def test_a_head_that_is_trained_on_the_concept_as_advised_is_the_start(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    head = head_of_zeros(tmp_path / "h")
    other = Head(np.zeros((1, 1280), np.float32), np.zeros(1, np.float32), ("cyst",))
    save_head(other, head / "head.safetensors", head / "head.json")
    with pytest.raises(InputError, match="train it on that concept or leave the concept out"):
        tune(tmp_path / "a", lite0, cohort, embeddings, head=head, epochs=1)
    head_of_zeros(tmp_path / "h")
    directory = tune(tmp_path / "a", lite0, cohort, embeddings, head=head, epochs=1)
    assert load_head(directory).concepts == ("mass",)


def test_a_frozen_layer_the_base_does_not_have_is_refused(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    with pytest.raises(InputError, match=r"no layer .blocks\.99"):
        tune(tmp_path / "finetuned", lite0, cohort, embeddings, freeze="blocks.99")


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(lite0, cached, tmp_path, monkeypatch):
    cohort, _, embeddings = cached
    settings = {"epochs": 2, "accumulate": 2}
    whole = tune(tmp_path / "whole", lite0, cohort, embeddings, **settings)
    monkeypatch.setattr(finetune, "SAVE_EVERY", 0.0)
    advance, steps = finetune.Training.advance, []

    def killed(training, chosen, batch):
        # Gradients of one batch wait for the next, so the checkpoint is of the batch before.
        if training.step == 7:
            raise KeyboardInterrupt
        advance(training, chosen, batch)

    monkeypatch.setattr(finetune.Training, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "again", lite0, cohort, embeddings, **settings)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["checkpoint.pt"]

    def counted(training, chosen, batch):
        steps.append(training.step)
        advance(training, chosen, batch)

    monkeypatch.setattr(finetune.Training, "advance", counted)
    again = tune(tmp_path / "again", lite0, cohort, embeddings, **settings)
    assert steps == list(range(6, 12))
    for name in OUTPUTS:
        assert (whole / name).read_bytes() == (again / name).read_bytes(), name
    assert not (again / "checkpoint.pt").exists()


def test_a_checkpoint_left_by_another_run_is_not_continued(lite0, cached, tmp_path, monkeypatch):
    cohort, _, embeddings = cached
    whole = tune(tmp_path / "whole", lite0, cohort, embeddings, epochs=1)
    monkeypatch.setattr(finetune, "SAVE_EVERY", 0.0)
    advance = finetune.Training.advance

    def killed(training, chosen, batch):
        if training.step == 3:
            raise KeyboardInterrupt
        advance(training, chosen, batch)

    monkeypatch.setattr(finetune.Training, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "again", lite0, cohort, embeddings, epochs=1, lr=1e-2)
    monkeypatch.setattr(finetune.Training, "advance", advance)
    again = tune(tmp_path / "again", lite0, cohort, embeddings, epochs=1)
    assert (whole / OUTPUTS[0]).read_bytes() == (again / OUTPUTS[0]).read_bytes()


def test_accumulated_batches_step_as_one_batch_of_their_sum(lite0, cached, tmp_path, monkeypatch):
    cohort, _, embeddings = cached
    # In float32, because bfloat16 rounds gradients of other sizes in another way.
    monkeypatch.setattr(finetune, "product_type", lambda _: torch.float32)
    settings = {"epochs": 1, "augmentation": "none"}
    one = tune(tmp_path / "1", lite0, cohort, embeddings, batch_size=16, **settings)
    two = tune(tmp_path / "2", lite0, cohort, embeddings, batch_size=8, accumulate=2, **settings)
    heads = [load_head(directory).weight for directory in (one, two)]
    np.testing.assert_allclose(heads[0], heads[1], atol=2e-2 * np.abs(heads[0]).max())


def test_mammo_clips_recipe_has_its_published_settings_and_trains_from_images(
    lite0, cached, tmp_path
):
    recipe = MammoClipRecipe(kind="mammo_clip")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (30, 8, 5e-5)
    assert recipe.augmentation == "mammo_clip"
    cohort, images, _ = cached
    directory = tune(
        tmp_path / "a", lite0, cohort, images, freeze=None, epochs=1, augmentation="mammo_clip"
    )
    assert np.isfinite(load_head(directory).weight).all()


def test_augmenting_images_that_are_cached_maps_is_refused():
    with pytest.raises(ValidationError, match="set freeze to null or augmentation to vertical"):
        FinetunedSettings(
            kind="finetuned",
            base="pretrained",
            freeze="blocks.4",
            recipe=MammoClipRecipe(kind="mammo_clip"),
        )


def test_training_ends_when_the_validation_split_gains_no_more_and_keeps_the_best_epoch(
    lite0, cached, tmp_path
):
    cohort, images, embeddings = cached
    table = pd.read_parquet(cohort)
    table.loc[::4, "split"] = "validation"
    table.loc[1::4, "split"] = "validation"
    write_table(table, cohort)
    # At such a rate the first epochs are the best.
    directory = tune(
        tmp_path / "a", lite0, cohort, embeddings, epochs=12, patience=2, lr=3e-3, warmup=0.9
    )
    log = pd.read_csv(directory / "log.csv")
    assert len(log) < 1 + 12
    assert len(log) - 1 - log["validation_auroc"].idxmax() == 2
    logits, truth = predict(directory, images)
    unseen = (table["split"] == "validation").to_numpy()
    best = log["validation_auroc"].max()
    # Scored in bfloat16 while training, in float32 here.
    assert auroc(logits[unseen], truth[unseen]) == pytest.approx(best, abs=0.03)


def test_patience_without_a_validation_split_is_refused(lite0, cached, tmp_path):
    cohort, _, embeddings = cached
    with pytest.raises(InputError, match="split validation has 0 positive and 0 negative images"):
        tune(tmp_path / "a", lite0, cohort, embeddings, patience=1)
