"""Several SAEs of a layer, trained in one pass over the data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.provenance import Provenance
from mammo_sae.sae import train_sae as step
from mammo_sae.sae import trainer
from mammo_sae.sae.settings import L1Variant
from mammo_sae.settings import canonical_json
from mammo_sae.stores.embeddings import EmbeddingReader

RECORD = "sae.json.provenance.json"
FILES = ("sae.safetensors", "sae.json", "log.csv", RECORD)


@pytest.fixture
def streamed(settings, monkeypatch):
    """Settings with which cells go through a mixing buffer, in many parts per epoch."""
    monkeypatch.setattr("mammo_sae.stores.embeddings.SHARD_BYTES", 1)
    monkeypatch.setattr(step, "MIB", 1)
    return settings


@pytest.fixture
def others(streamed):
    """Another seed, another width and batch, another variant and length."""
    return {
        "seed": streamed.model_copy(update={"seed": 5}),
        "wide": streamed.model_copy(update={"latents": 48, "batch": 50}),
        "l1": streamed.model_copy(update={"variant": L1Variant(), "steps": 90}),
    }


def made_by(own) -> Provenance:
    return Provenance(step="train_sae", config=canonical_json(own), code="c", inputs={"a": "b"})


@pytest.fixture
def steps(monkeypatch):
    """Count the steps taken, by the seed, width and length of the SAE."""
    taken: dict = {}
    advance = trainer.Training.advance

    def counted(self, u):
        key = (self.settings.seed, self.settings.latents, self.settings.steps)
        taken[key] = taken.get(key, 0) + 1
        advance(self, u)

    monkeypatch.setattr(trainer.Training, "advance", counted)
    return taken


@pytest.fixture
def run(train_sae, tmp_path):
    """Train an SAE into a folder, together with the SAEs of the given folders."""

    def start(cohort, name, own, **beside):
        paths = {tmp_path / folder / "sae.json": other for folder, other in beside.items()}
        return train_sae(cohort, tmp_path / name, own, made_by=made_by, beside=paths)

    return start


def test_saes_trained_in_one_pass_are_those_trained_alone(
    cohort, run, streamed, others, steps, tmp_path
):
    run(cohort, "together", streamed, **others)
    for name in others:
        assert [path.name for path in (tmp_path / name).iterdir()] == ["checkpoint.pt"]
    together = dict(steps)
    for name, own in others.items():
        run(cohort, name, own)
        assert not (tmp_path / name / "checkpoint.pt").exists()
    assert steps == together, "what the pass has trained is trained again"
    for name, own in {"together": streamed, **others}.items():
        run(cohort, f"alone-{name}", own)
        for file in FILES:
            alone = (tmp_path / f"alone-{name}" / file).read_bytes()
            assert (tmp_path / name / file).read_bytes() == alone, (name, file)


def test_each_block_is_read_once_for_all_of_them(cohort, run, streamed, others, monkeypatch):
    read = []
    read_block = EmbeddingReader.read_block
    monkeypatch.setattr(
        EmbeddingReader, "read_block", lambda self, n: (read.append(n), read_block(self, n))[1]
    )
    run(cohort, "alone", streamed)
    alone = len(read)
    run(cohort, "together", streamed, **{name: others[name] for name in ("seed", "l1")})
    # The parts that were read ahead when the last SAE ended may differ by one.
    assert abs(len(read) - 2 * alone) <= 2


def test_the_progress_names_the_first_sae_and_counts_the_others(cohort, run, streamed, monkeypatch):
    labels = []
    fit = step.fit
    monkeypatch.setattr(step, "fit", lambda *args: (labels.append(args[2]), fit(*args))[1])
    brief = streamed.model_copy(update={"steps": 1})
    run(cohort, "alone", brief)
    run(cohort, "together", brief, seed=brief.model_copy(update={"seed": 5}))
    assert labels == ["SAE head seed 1", "SAE head seed 1 and 1 more"]


def test_an_sae_that_is_there_or_sees_other_cells_is_left_alone(
    cohort, run, streamed, others, steps, tmp_path
):
    run(cohort, "seed", others["seed"])
    fewer = streamed.model_copy(update={"cells_per_image": 6, "latents": 40})
    steps.clear()
    run(cohort, "together", streamed, seed=others["seed"], fewer=fewer)
    assert set(steps) == {(1, 32, 150)}
    assert not (tmp_path / "fewer").exists()


def test_an_sae_whose_settings_changed_is_trained_anew(cohort, run, streamed, others, steps):
    run(cohort, "seed", others["seed"])
    steps.clear()
    run(cohort, "together", streamed, seed=others["seed"].model_copy(update={"lr": 5e-3}))
    assert set(steps) == {(1, 32, 150), (5, 32, 150)}


def test_one_that_diverges_is_left_to_its_own_run(cohort, run, streamed, others, tmp_path, capfd):
    wild = others["seed"].model_copy(update={"lr": 1e30})
    run(cohort, "together", streamed, wild=wild, wide=others["wide"])
    assert "warning: dropped an SAE of the same pass: training diverged" in capfd.readouterr().err
    assert (tmp_path / "together" / "sae.json").is_file()
    assert not (tmp_path / "wild").exists()
    assert (tmp_path / "wide" / "checkpoint.pt").is_file()
    with pytest.raises(InputError, match="training diverged at step"):
        run(cohort, "wild", wild)


def test_saes_that_do_not_fit_in_memory_together_are_trained_later(
    cohort, run, streamed, others, steps, monkeypatch
):
    one = 2 * 4 * 4 * 32 * 12  # two matrices of 32 x 12, a gradient and two moments each
    monkeypatch.setattr(step, "TOGETHER_BYTES", 2 * one)
    run(cohort, "together", streamed, seed=others["seed"], l1=others["l1"])
    assert set(steps) == {(1, 32, 150), (5, 32, 150)}


def test_a_killed_pass_goes_on_with_all_of_them(
    cohort, run, streamed, others, monkeypatch, tmp_path
):
    class Killed(Exception):
        pass

    advance = trainer.Training.advance

    def die(self, u):
        if self.step == 70 and self.settings.seed == 5:
            raise Killed
        advance(self, u)

    beside = {name: others[name] for name in ("seed", "wide")}
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "SAVE_SECONDS", 0.0)
        patch.setattr(trainer.Training, "advance", die)
        with pytest.raises(Killed):
            run(cohort, "killed", streamed, **beside)
    kept = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["state"]
    assert 60 < kept["step"] < 150
    run(cohort, "killed", streamed, **beside)
    run(cohort, "whole", streamed)
    weights = [
        np.frombuffer((tmp_path / name / "sae.safetensors").read_bytes(), np.uint8)
        for name in ("killed", "whole")
    ]
    assert np.array_equal(*weights)
    for name in beside:
        run(cohort, name, others[name])
        run(cohort, f"alone-{name}", others[name])
        for file in FILES:
            assert (tmp_path / name / file).read_bytes() == (
                tmp_path / f"alone-{name}" / file
            ).read_bytes()


def test_every_sae_of_a_pass_is_recorded_with_the_code_of_its_own_variant(
    cohort, train_sae, streamed, others, tmp_path, steps
):
    def by_variant(own):
        return made_by(own).model_copy(update={"code": f"code of {own.variant.name}"})

    first, second = tmp_path / "first", tmp_path / "l1"
    beside = {second / "sae.json": others["l1"]}
    train_sae(cohort, first, streamed, made_by=by_variant, beside=beside)
    taken = dict(steps)
    train_sae(cohort, second, others["l1"], made_by=by_variant)
    assert steps == taken  # its own run found it already trained
    assert json.loads((second / RECORD).read_text())["code"] == "code of l1"
