from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mammo_sae.config import Config, default_yaml, load_config, read_config
from mammo_sae.errors import InputError
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).parents[1]


def test_the_default_configuration_is_the_one_in_the_models():
    written = (PROJECT / "config" / "config.yaml").read_text()
    assert written == default_yaml(), "run: python -m mammo_sae default-config > config/config.yaml"
    assert load_config(yaml.safe_load(written), "config.yaml") == Config()


def test_every_key_of_the_default_configuration_says_what_it_means():
    lines = (PROJECT / "config" / "config.yaml").read_text().splitlines()
    assert sum(line.lstrip().startswith("#") for line in lines) > 100
    assert "# peak learning rate of Adam" in (line.strip() for line in lines)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"layer": ["head"]}, "layer: unknown key"),
        ({"saes": {"topk": {"lr": "1e-4"}}}, r"saes\.topk\.lr: .*write 1\.0e-4"),
        ({"layers": ["blocks.99"]}, r"layers: 'blocks\.99' is not a layer of encoder 'pretrained'"),
        ({"layers": ["head", "head"]}, "names a layer twice"),
        (
            {"encoders": {"tuned": {"kind": "finetuned", "base": "nobody"}}},
            r"encoders\.tuned\.base: 'nobody' is not a pretrained encoder",
        ),
        (
            {
                "encoders": {
                    "pretrained": {"kind": "pretrained"},
                    "tuned": {"kind": "finetuned", "base": "pretrained", "freeze": "blocks.40"},
                }
            },
            r"encoders\.tuned\.freeze: 'blocks\.40' is not a layer",
        ),
        ({"name": "../elsewhere"}, "name: "),
        ({"cohort": {"kind": "atlas"}}, "cohort: .*'atlas'"),
        ({"saes": {"topk": {"layers": {"head": {"latent": 5}}}}}, r"layers\.head.*latent: unknown"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_that_names_the_key(content, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        load_config(content, "configuration")
    assert "\n" not in str(error.value)


def test_an_entry_set_to_null_is_left_out():
    cohort = {"kind": "phantom", "concepts": {"mass": "Mass", "cyst": None}}
    config = load_config({"saes": {"topk": {}, "l1": None}, "cohort": cohort}, "x")
    assert list(config.saes) == ["topk"]
    assert list(config.cohort.concepts) == ["mass"]
    with pytest.raises(InputError, match="saes: "):
        load_config({"saes": {"topk": None}}, "x")


def test_the_configuration_for_vindr_is_valid_and_names_its_own_confounders():
    config = read_config(PROJECT / "config" / "vindr.yaml")
    assert config.architecture("finetuned") == "efficientnet-b5"
    assert {"marker", "paddle"}.isdisjoint(config.confounds.acquisition)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.yaml is missing"):
        read_config(tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"bad\.yaml is not YAML"):
        read_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match="must hold keys"):
        read_config(tmp_path / "list.yaml")


WILDCARDS = {
    "part": "training",
    "encoder": "finetuned",
    "layer": "head",
    "sae": "topk",
    "seed": "0",
    "shard": "0",
}


def test_every_step_reads_its_own_slice_back():
    from pydantic import TypeAdapter

    from mammo_sae.settings import canonical_json

    config = Config()
    for name, step in STEPS.items():
        if step.settings is None:
            continue
        wildcards = dict(WILDCARDS)
        if name == "import_encoder":
            wildcards["encoder"] = "pretrained"
        text = config.slice(name, wildcards)
        assert canonical_json(TypeAdapter(step.settings).validate_json(text)) == text, name


def test_every_step_has_a_module_with_a_run():
    from importlib import import_module

    for name, step in STEPS.items():
        assert callable(import_module(step.module).run), name
        assert len(step.digest()) == 32


def test_a_slice_changes_with_what_the_step_uses_and_with_nothing_else():
    base = Config()
    changed = load_config({"saes": {"topk": {"layers": {"head": {"lr": 0.5}}}}}, "x")
    assert changed.slice("train_sae", WILDCARDS) != base.slice("train_sae", WILDCARDS)
    other = {**WILDCARDS, "layer": "blocks.10"}
    assert changed.slice("confounds", other) == base.slice("confounds", other)


def test_a_finetuned_encoder_reads_its_frozen_layers_from_its_base():
    config = load_config(
        {
            "layers": ["blocks.2", "blocks.4", "head"],
            "encoders": {
                "pretrained": {"kind": "pretrained"},
                "finetuned": {"kind": "finetuned", "base": "pretrained", "freeze": "blocks.4"},
            },
        },
        "x",
    )
    assert config.extracted_layers("pretrained") == ["blocks.2", "blocks.4", "head", "pooled"]
    assert config.extracted_layers("finetuned") == ["head", "pooled"]
    assert config.holder("finetuned", "blocks.2") == "pretrained"
    assert config.holder("finetuned", "head") == "finetuned"
