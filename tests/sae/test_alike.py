"""Every variant, trained by the step alone, together with others, and after a kill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mammo_sae.sae import settings as s
from mammo_sae.sae import train_sae as step
from mammo_sae.sae import trainer
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.tables import read_table

FILES = ("sae.safetensors", "sae.json", "log.csv")

VARIANTS = {
    "topk": s.TopKVariant(k=4, k_aux=4),
    "batch_topk": s.BatchTopKVariant(k=4, k_aux=4),
    "matryoshka": s.MatryoshkaVariant(k=4, k_aux=4),
    "archetypal": s.ArchetypalVariant(k=4, k_aux=4, candidates=40, relaxation=0.2),
    "l1": s.L1Variant(l1=0.01, resample_every=0.3),
    "mammo_sae": s.MammoSaeVariant(l1=0.01, resample_every=0.2, resample_cells=200),
    "jumprelu": s.JumpReLUVariant(k=4),
    "gated": s.GatedVariant(l1=0.05),
    "decoder": s.RandomVariant(k=4, k_aux=4, frozen="decoder"),
    "encoder": s.RandomVariant(k=4, k_aux=4, frozen="encoder"),
    "soft": s.RandomVariant(k=4, k_aux=4, frozen="soft"),
    "both": s.RandomVariant(k=4, k_aux=4, frozen="both"),
}
COMPUTED = {
    "channels": s.ChannelsVariant(k=4),
    "pca": s.PCAVariant(k=4),
    "nmf": s.NMFVariant(k=4),
}


@pytest.fixture
def own(settings):
    return {
        name: settings.model_copy(update={"variant": variant, "steps": 40, "dead_after": 0.1})
        for name, variant in VARIANTS.items()
    }


def assert_alike(one, other):
    """Compare weights by value first, so that a failure shows the difference, then every byte."""
    weights = [load_file(folder / "sae.safetensors") for folder in (one, other)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=0, msg=f"{one} {name}")
    for file in FILES:
        assert (one / file).read_bytes() == (other / file).read_bytes(), (one, file)


def test_every_variant_trained_with_others_equals_the_one_trained_alone(
    cohort, train_sae, own, tmp_path
):
    first, *others = own
    paths = {tmp_path / "beside" / name / "sae.json": own[name] for name in others}
    train_sae(cohort, tmp_path / "beside" / first, own[first], beside=paths)
    for name in others:
        assert (tmp_path / "beside" / name / "checkpoint.pt").is_file()
        train_sae(cohort, tmp_path / "beside" / name, own[name])
    for name in own:
        train_sae(cohort, tmp_path / "alone" / name, own[name])
        assert_alike(tmp_path / "alone" / name, tmp_path / "beside" / name)


def test_every_variant_goes_on_after_a_kill_as_if_it_had_not_stopped(
    cohort, train_sae, own, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    advance = trainer.Training.advance

    def die(self, u):
        if self.step == 27:
            raise Killed
        advance(self, u)

    for name in own:
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "SAVE_SECONDS", 0.0)
            patch.setattr(trainer.Training, "advance", die)
            with pytest.raises(Killed):
                train_sae(cohort, tmp_path / "killed" / name, own[name])
        kept = torch.load(tmp_path / "killed" / name / step.CHECKPOINT, weights_only=True)
        assert kept["state"]["step"] == 27
        train_sae(cohort, tmp_path / "killed" / name, own[name])
        train_sae(cohort, tmp_path / "whole" / name, own[name])
        assert_alike(tmp_path / "whole" / name, tmp_path / "killed" / name)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_sae_is_left_to_its_own_run_which_trains_no_other(
    name, cohort, train_sae, own, settings, tmp_path
):
    computed = settings.model_copy(update={"variant": COMPUTED[name]})
    paths = {folder: tmp_path / folder / "sae.json" for folder in ("topk", "beside", "second")}
    train_sae(cohort, tmp_path / "topk", own["topk"], beside={paths["beside"]: computed})
    assert not (tmp_path / "beside").exists()
    beside = {paths["second"]: own["l1"]}
    train_sae(cohort, tmp_path / "beside", computed, beside=beside)
    assert not (tmp_path / "second").exists()
    train_sae(cohort, tmp_path / "alone", computed)
    assert_alike(tmp_path / "alone", tmp_path / "beside")
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {*FILES}
    [row] = read_table(tmp_path / "alone" / "log.csv").to_dict("records")
    assert (row["step"], row["lr"], row["loss"]) == (0, 0, row["error"])
    sae = SparseAutoencoder.load(tmp_path / "alone")
    x = torch.from_numpy(
        np.stack([cohort.cells[i] for i in cohort.splits["training"]]).reshape(-1, 12)
    ).float()
    index, value = sae.encoder()(x)
    missed = (x - sae.decode(index, value)).square()
    assert row["error"] == pytest.approx(
        float(missed.mean()) * sae.description["scale"] ** 2, rel=1e-4
    )
    assert row["l0"] == pytest.approx(float((value > 0).sum()) / len(x), rel=1e-6)
    assert row["explained_variance"] == pytest.approx(
        float(1 - missed.sum() / (x - x.mean(dim=0)).square().sum()), abs=1e-5
    )
