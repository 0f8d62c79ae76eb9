from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mammo_sae.errors import InputError
from mammo_sae.sae.settings import (
    ArchetypalVariant,
    ChannelsVariant,
    GatedVariant,
    JumpReLUVariant,
    L1Variant,
    MammoSaeVariant,
    NMFVariant,
    PCAVariant,
    RandomVariant,
    SaeSettings,
    SaeTraining,
    TopKVariant,
)
from mammo_sae.settings import canonical_json, parse_settings


def test_a_layers_overrides_change_only_what_they_name():
    settings = SaeSettings(
        latents=64, lr=1e-2, layers={"head": {"latents": 128, "variant": {"k": 4}}}
    )
    inner, head = settings.training("blocks.10", 0), settings.training("head", 0)
    assert (inner.latents, inner.variant.k, inner.lr) == (64, 16, 1e-2)
    assert (head.latents, head.variant.k, head.lr) == (128, 4, 1e-2)
    assert head.variant.k_aux == inner.variant.k_aux


def test_the_seed_is_the_only_difference_between_two_seeds():
    settings = SaeSettings(seeds=[3, 4])
    one, other = settings.training("head", 3), settings.training("head", 4)
    assert one.model_copy(update={"seed": 4}) == other


def test_a_resolved_run_survives_its_canonical_json():
    training = SaeSettings().training("head", 5)
    assert parse_settings(SaeTraining, canonical_json(training), "cfg") == training


def test_another_layers_override_leaves_a_layers_settings_as_they_are():
    one = SaeSettings(layers={"head": {"lr": 1e-3}})
    other = SaeSettings(layers={"head": {"lr": 2e-3}})
    assert one.training("blocks.10", 0) == other.training("blocks.10", 0)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ({"latent": 5}, r"saes: layers\.head\.latent: unknown key.*did you mean 'latents'"),
        ({"lr": "1e-4"}, r"layers\.head\.lr: .*write 1\.0e-4"),
        ({"variant": {"k": 9000}}, r"layers\.head\.variant\.k = 9000 is more than latents"),
    ],
)
def test_a_wrong_override_is_refused_with_its_layer_and_key(override, complaint):
    with pytest.raises(InputError, match=complaint):
        parse_settings(SaeSettings, canonical_json({"layers": {"head": override}}), "saes")


@pytest.mark.parametrize(
    ("settings", "name", "least", "below"),
    [
        (TopKVariant, "k", 1, 0),
        (TopKVariant, "k_aux", 0, -1),
        (TopKVariant, "aux_weight", 0, -0.5),
        (ArchetypalVariant, "candidates", 2, 1),
        (ArchetypalVariant, "relaxation", 0, -0.5),
        (L1Variant, "l1", 0, -0.5),
        (L1Variant, "resample_every", 0.01, 0),
        (MammoSaeVariant, "l1", 0, -0.5),
        (MammoSaeVariant, "resample_every", 0.01, 0),
        (MammoSaeVariant, "resample_cells", 1, 0),
        (JumpReLUVariant, "k", 1, 0),
        (JumpReLUVariant, "l0_weight", 0, -0.5),
        (JumpReLUVariant, "threshold", 0.01, 0),
        (JumpReLUVariant, "bandwidth", 0.01, 0),
        (GatedVariant, "l1", 0, -0.5),
        (ChannelsVariant, "k", 1, 0),
        (PCAVariant, "k", 1, 0),
        (NMFVariant, "k", 1, 0),
        (RandomVariant, "k", 1, 0),
        (SaeTraining, "lr", 0.01, 0),
        (SaeTraining, "steps", 1, 0),
        (SaeTraining, "batch", 1, 0),
        (SaeTraining, "warm_up", 0, -0.5),
        (SaeTraining, "decay", 0, -0.5),
        (SaeTraining, "dead_after", 0.01, 0),
        (SaeTraining, "background", 0, -0.5),
        (SaeTraining, "cells_per_image", 1, 0),
        (SaeTraining, "images", 1, 0),
        (SaeTraining, "buffer", 1, 0),
        (SaeTraining, "seed", 0, -1),
    ],
)
def test_the_least_value_is_taken_and_one_below_it_refused(settings, name, least, below):
    assert getattr(settings(**{name: least}), name) == least
    with pytest.raises(ValidationError, match=name):
        settings(**{name: below})


def test_the_published_weight_of_the_penalty_is_the_default_of_both_variants():
    assert L1Variant().l1 == MammoSaeVariant().l1 == 3e-5


def test_more_active_latents_than_latents_are_refused():
    with pytest.raises(ValidationError, match=r"variant.k = 16 is more than latents = 8"):
        SaeTraining(latents=8)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"variant": {"name": "random"}, "init": "cells"}, "init = cells has no meaning for"),
        ({"variant": {"name": "channels"}, "init": "cells"}, "for variant channels; leave it out"),
        ({"variant": {"name": "nmf"}, "bias": "median"}, "bias = median has no meaning for .* nmf"),
        ({"variant": {"name": "pca"}, "latents": 33}, "latents = 33 is odd, but variant pca has"),
        ({"variant": {"name": "pca", "k": 40}, "latents": 32}, "variant.k = 40 is more than lat"),
        ({"variant": {"name": "random", "frozen": "both", "cosine": 0.9}}, "cosine = 0.9 has no"),
        ({"variant": {"name": "random", "frozen": "soft", "cosine": 1.1}}, "less than or equal"),
    ],
)
def test_settings_of_controls_that_contradict_each_other_are_refused(values, complaint):
    with pytest.raises(ValidationError, match=complaint):
        SaeTraining.model_validate(values)


def test_channels_are_not_bound_to_the_number_of_latents():
    settings = SaeTraining(variant=ChannelsVariant(k=40), latents=32)
    assert parse_settings(SaeTraining, canonical_json(settings), "cfg") == settings


def test_a_soft_start_keeps_its_cosine_through_canonical_json():
    settings = SaeSettings(variant=RandomVariant(frozen="soft", cosine=0.9)).training("head", 0)
    assert parse_settings(SaeTraining, canonical_json(settings), "cfg").variant.cosine == 0.9


def test_overrides_that_stop_resolving_name_the_layer():
    settings = SaeSettings.model_construct(
        **{**SaeSettings().__dict__, "layers": {"head": {"steps": 0}}}
    )
    with pytest.raises(InputError, match=r"layers\.head: steps"):
        settings.training("head", 0)


def test_the_settings_module_imports_nothing_heavy():
    code = (
        "import sys, mammo_sae.sae.settings as s; s.SaeSettings();"
        "heavy = {'torch', 'zarr', 'pandas', 'scipy', 'pydicom'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
