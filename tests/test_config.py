from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mammo_sae.config import Config, default_yaml, load_config, read_config
from mammo_sae.digests import code_digest
from mammo_sae.errors import InputError
from mammo_sae.steps import STEPS
from mammo_sae.yaml_files import laid_over

PROJECT = Path(__file__).parents[1]


def test_a_configuration_puts_an_encoder_with_random_weights_beside_those_of_the_demo():
    files = [PROJECT / "config" / name for name in ("config.yaml", "random_encoder.yaml")]
    demo, config = read_config(files[:1]), read_config(files)
    assert config.encoders.keys() - demo.encoders.keys() == {"random"}
    assert config.encoders["random"].source.kind == "random"
    assert config.model_copy(update={"name": demo.name, "encoders": demo.encoders}) == demo


def test_the_default_configuration_is_the_one_in_the_models():
    written = (PROJECT / "config" / "config.yaml").read_text()
    assert written == default_yaml(), "run: python -m mammo_sae default-config > config/config.yaml"
    assert read_config([]) == load_config(yaml.safe_load(written), "config.yaml")


def test_every_key_of_the_default_configuration_has_its_meaning():
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
            {"encoders": {"one": {"kind": "pretrained", "base": "one"}}},
            r"encoders\.one\.base: names the encoder itself",
        ),
        (
            {
                "encoders": {
                    "one": {"kind": "pretrained"},
                    "two": {
                        "kind": "pretrained",
                        "base": "one",
                        "source": {"kind": "mammo_clip", "path": "b5.pth"},
                    },
                }
            },
            r"encoders\.two\.base: 'one' is of efficientnet-lite0, 'two' of efficientnet-b5",
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
        (
            {"saes": {"topk": {"only": {"layers": ["block.10"]}}}},
            r"saes\.topk\.only\.layers: 'block\.10' is not among the layers of this run; "
            r"name blocks\.10, blocks\.14 or head, or null",
        ),
        (
            {"saes": {"topk": {"only": {"encoders": ["tuned"]}}}},
            r"saes\.topk\.only\.encoders: 'tuned' is not among the encoders of this run; name",
        ),
        (
            {"saes": {"topk": {"only": {"encoders": []}}}},
            r"saes\.topk\.only\.encoders: must hold 1 or more, holds 0",
        ),
        (
            {"saes": {"topk": {"only": {"layer": ["head"]}}}},
            r"saes\.topk\.only\.layer: unknown key.*did you mean 'layers'",
        ),
        ({"name": "../elsewhere"}, "name: "),
        ({"cohort": {"kind": "atlas"}}, r"cohort\.kind: must be phantom, .*got 'atlas'"),
        (
            {"saes": {"topk": {"layers": {"head": {"latent": 5}}}}},
            r"saes\.topk\.layers\.head\.latent: unknown key.*did you mean 'latents'",
        ),
        (
            {
                "cohort": {"kind": "mammo_clip", "source": "pngs"},
                "images": {"preprocessing": "mammo_clip"},
            },
            r"images\.preprocessing: mammo_clip would crop .* a second time; set it to as_is",
        ),
    ],
)
def test_a_wrong_configuration_is_one_sentence_that_names_the_key(content, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        load_config(content, "configuration")
    assert "\n" not in str(error.value)


def test_the_trained_saes_of_a_layer_come_before_its_controls():
    saes = {"a": {"variant": {"name": "pca", "k": 8}}, "b": {}, "c": {}}
    runs = load_config({"saes": saes, "layers": ["blocks.10", "head"]}, "x").runs()
    assert [run["sae"] for run in runs] == ["b", "c", "a"] * 4


def test_an_sae_is_trained_only_on_the_layers_and_encoders_that_it_names():
    saes = {
        "topk": {},
        "one": {"only": {"layers": ["head"], "encoders": ["finetuned"]}, "seeds": [0, 1]},
        "inner": {"only": {"layers": ["blocks.10"]}},
    }
    config = load_config({"saes": saes, "layers": ["blocks.10", "head"]}, "x")
    runs = [tuple(run.values()) for run in config.runs()]
    assert len(runs) == len(set(runs))
    assert {run[:2] for run in runs if run[2] == "topk"} == {
        (encoder, layer)
        for encoder in ("pretrained", "finetuned")
        for layer in ("blocks.10", "head")
    }
    assert [run for run in runs if run[2] == "one"] == [
        ("finetuned", "head", "one", 0),
        ("finetuned", "head", "one", 1),
    ]
    assert [run for run in runs if run[2] == "inner"] == [
        ("pretrained", "blocks.10", "inner", 0),
        ("finetuned", "blocks.10", "inner", 0),
    ]


def test_the_restriction_of_an_sae_is_in_the_settings_of_no_step():
    whole = load_config({"saes": {"topk": {}}}, "x")
    restricted = load_config({"saes": {"topk": {"only": {"layers": ["head"]}}}}, "x")
    wildcards = {"sae": "topk", "layer": "head", "seed": "0"}
    assert whole.slice("train_sae", wildcards) == restricted.slice("train_sae", wildcards)


def test_an_entry_set_to_null_is_left_out():
    cohort = {"kind": "phantom", "concepts": {"mass": "Mass", "cyst": None}}
    config = load_config({"saes": {"topk": {}, "l1": None}, "cohort": cohort}, "x")
    assert list(config.saes) == ["topk"]
    assert list(config.cohort.concepts) == ["mass"]
    with pytest.raises(InputError, match="saes: "):
        load_config({"saes": {"topk": None}}, "x")


def test_the_configuration_for_vindr_is_valid_and_names_its_own_confounders():
    config = read_config([PROJECT / "config" / "vindr.yaml"])
    assert config.architecture("finetuned") == "efficientnet-b5"
    assert {"marker", "paddle"}.isdisjoint(config.confounds.acquisition)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.yaml is missing"):
        read_config([tmp_path / "nothing.yaml"])
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"bad\.yaml, line 1, column \d: "):
        read_config([tmp_path / "bad.yaml"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match="must hold keys"):
        read_config([tmp_path / "list.yaml"])


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
        for module in step.all_modules():
            assert len(code_digest(module)) == 32


def test_a_slice_changes_only_with_settings_that_the_step_uses():
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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: 2024-05-01", "name: YAML reads 2024-05-01 as a date; put it in quotes"),
        ("name: 2024-05-01 10:00:00", "name: YAML reads .* as a date"),
        ("name: yes", "name: must be text, got true; put it in quotes"),
        ("name: 12", "name: must be text, got 12; put it in quotes"),
        ("name: 1.5e+3", "name: must be text, got 1500.0; put it in quotes"),
        ("name: 1.5e3", "name: must be letters, digits, - and _, .*got '1.5e3'"),
        ("saes: {2024-05-01: {}}", "saes: YAML reads 2024-05-01 as a date; put it in quotes"),
        ("saes: {yes: {}}", "saes: YAML reads the key true as no text; put it in quotes"),
        ("saes: {1: {}}", "saes: YAML reads the key 1 as no text; put it in quotes"),
        ("saes: {a: {}, a: {}}", "line 1, column 15: the key 'a' stands here a second time"),
        ("name: a\nname: b", "line 2, column 1: the key 'name' stands here a second time"),
        ('{"name": "a", "name": "b"}', "the key 'name' stands here a second time"),
        ("saes: {a: {lr: .nan}}", r"saes\.a\.lr: nan is no number"),
        ("saes: {a: {lr: .inf}}", r"saes\.a\.lr: inf is no number"),
        (f"saes: {{a: {{steps: {10**40}}}}}", r"saes\.a\.steps: the number is beyond 2147483647"),
        ('name: "a\\0b"', "name: the text holds the character"),
        ("name: !!binary aGFsbG8=", "name: YAML reads this as bytes"),
        ("saes: !!set {a, b}", "saes: YAML reads this as set"),
        ("saes: &a {b: *a}", "nested more than 32 deep|recursive"),
        ("name: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: &a [1,1,1,1,1,1,1,1]\n" + "".join(
            f"{c}: &{c} [{', '.join([f'*{b}'] * 8)}]\n" for b, c in pairwise("abcdefgh")
        ), "more than 20000 values"),
        ("\tname: a", "line 1"),
        ("encoders: {finetuned: {kind: finetunned}}", "finetuned.kind: must be pretrained"),
        ("encoders: {a: {source: {}}}", r"encoders\.a\.kind: missing; it must be pretrained or"),
        ("saes: {a: {variant: {k: 3}}}", r"saes\.a\.variant\.name: missing; it must be topk, "),
        ("saes: {a: {variant: {name: top}}}", "must be topk, .*got 'top'; did you mean 'topk'"),
        ("cohort: {kind: [phantom]}", r"cohort\.kind: must be phantom, .*got \["),
        ("saes: {a: {variant: {name: {topk: 1}}}}", r"variant\.name: must be topk, .*got \{"),
        ("saes: {topk: null}", "saes: null leaves none"),
        ("confunds: {}", "confunds: unknown key.*did you mean 'confounds'"),
        ("readout: {k: [1]}", "readout: is called probes now; rename the key"),
        ("latents: {scor: max}", r"latents\.scor: unknown key.*did you mean 'score'"),
        (
            "images: {preprocessing: clinical, triage: {vieww: warn}}",
            r"images\.triage\.vieww: .*did you mean 'view'",
        ),
        ("interventions: {top_k: []}", r"interventions\.top_k: must hold 1 or more, holds 0"),
        ("interventions: {top_k: [1, x]}", r"interventions\.top_k\.1: must be a whole number"),
        ("cohort: {kind: vindr}", r"cohort\.source: missing; give it a value"),
        ("cohort: {kind: vindr, source: a, shards: 0}", r"cohort\.shards: must be 1 or more"),
        ("layers: [blocks.99, head, head]", r"names a layer twice.*'blocks\.99' is not a layer"),
        ("results: ~nobody-of-that-name/x", "results: .* home folder that is not known"),
        ("results: 'a{b}'", "results: .*character '{'"),
        (
            "cohort: {kind: vindr, source: a}\nsae_quality: {split: external}",
            r"sae_quality\.split: 'external' is a split that this cohort does not have; name its",
        ),
        (
            "encoders: {t: {kind: finetuned, base: a}, u: {kind: finetuned, base: b}}",
            r"encoders\.t\.base: 'a' is not .*; encoders\.u\.base: 'b' is not",
        ),
    ],
)  # fmt: skip
def test_values_that_yaml_reads_are_accepted_or_refused_in_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence) as error:
        read_config([file])
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


def test_all_wrong_keys_are_named_at_once(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: 5\nlayer: [head]\nlatents: {seed: x}\nsaes: {a: {k: 3}}\n")
    with pytest.raises(InputError) as error:
        read_config([file])
    for key in ("name: ", "layer: ", "latents.seed: ", "saes.a.k: "):
        assert key in str(error.value)


def test_text_that_looks_like_a_number_to_people_alone_is_taken(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: 1e3\nresults: ~/runs\nsaes: {'1': {}}\n")
    config = read_config([file])
    assert config.name == "1e3"
    assert config.folder == Path.home() / "runs" / "1e3"
    assert list(config.saes) == ["1"]


def test_merge_keys_and_aliases_mean_what_yaml_says(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("saes:\n  a: &a {lr: 0.5, steps: 10}\n  b: {<<: *a, steps: 20}\n")
    config = read_config([file])
    assert (config.saes["b"].lr, config.saes["b"].steps) == (0.5, 20)


def test_an_encoder_set_to_null_is_taken_from_the_default():
    assert list(load_config({"encoders": {"finetuned": None}}, "x").encoders) == ["pretrained"]


def test_settings_of_an_sae_hold_at_every_layer():
    """An SAE that a user configures gets no value of the demo."""
    sae = {"steps": 40, "latents": 256, "variant": {"name": "topk", "k": 16}}
    config = load_config({"saes": {"tiny": sae}}, "x")
    for layer in config.layers:
        training = config.saes["tiny"].training(layer, 0)
        assert (training.steps, training.latents, training.variant.k) == (40, 256, 16)


def test_values_for_the_phantom_are_only_in_the_demo(tmp_path):
    own = {"cohort": {"kind": "vindr", "source": "/data"}}
    config = load_config(own, "x")
    assert config.name == "vindr"
    assert config.probes.acquisition is config.probes.anatomical is None
    assert config.confounds.anatomical is None
    for step in (config.probes, config.interventions, config.effects):
        assert step.splits == ("test",)
    own["cohort"]["external"] = "/other"
    for step in ("probes", "interventions", "effects"):
        assert getattr(load_config(own, "x"), step).splits == ("test", "external")
    own["effects"] = {"splits": ["external"]}
    assert load_config(own, "x").effects.splits == ("external",)
    demo = read_config([])
    assert demo.probes.acquisition == ("marker", "manufacturer")
    assert demo.saes["topk"].training("head", 0).latents == 2560


def test_files_are_laid_over_each_other_as_snakemake_does(tmp_path):
    from snakemake.utils import update_config

    below = {"saes": {"a": {"lr": 1, "seeds": [0, 1]}}, "layers": ["head"], "name": "x"}
    above = {"saes": {"a": {"seeds": [2]}, "b": None}, "name": {"y": 1}, "new": {"k": {}}}
    expected = json.loads(json.dumps(below))
    update_config(expected, above)
    assert laid_over(below, above) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inner": {"layers": ["head"]}}, "inner.layers: 'head' is not an inner layer"),
        ({"truth": {"concept": "x"}}, "truth.concept: 'x' is not a concept of this cohort"),
        ({"effects": {"splits": ["test", "test"]}}, "effects.splits: test and test has an entry"),
        ({"interventions": {"top_k": [1, 2, 1]}}, "interventions.top_k: 1, 2 and 1 has an entry"),
    ],
)
def test_settings_that_no_rule_or_analysis_can_use_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        load_config(changes, "mine.yaml")


def test_figures_show_the_confirmation_split_or_the_first_that_the_analysis_reads():
    config = load_config(
        {
            "probes": {"splits": ["external", "test"]},
            "effects": {"splits": ["external"]},
            "layers": ["blocks.14", "head", "blocks.10"],
        },
        "mine.yaml",
    )
    assert config.shown_split("probes") == "test"
    assert config.shown_split("effects") == "external"
    assert config.shown_splits() == {
        layer: "test" for layer in config.layers if layer == "head" or layer in config.inner.layers
    }


def published(**changes) -> Config:
    probe = {"kind": "mammo_clip", "path": "b5-vindr.tar"}
    tuned = {"kind": "mammo_clip", "path": "b5-tuned.pth"}
    content = {
        "cohort": {"kind": "mammo_clip", "source": "pngs", "concepts": {"mass": "Mass"}},
        "images": {"preprocessing": "as_is"},
        "layers": ["head"],
        "encoders": {
            "lite": {"kind": "pretrained"},
            "probe": {"kind": "pretrained", "source": probe},
            "tuned": {"kind": "pretrained", "source": tuned, "base": "probe"} | changes,
            "mine": {"kind": "finetuned", "base": "probe"},
        },
    }
    return load_config(content, "mine.yaml")


def test_encoders_that_were_trained_on_the_cohort_are_named():
    assert sorted(published().seen()) == ["mine", "probe", "tuned"]
    assert Config().seen() == []


@pytest.mark.parametrize(
    ("kind", "seen"), [("embed", ["versa"]), ("rsna", ["versa"]), ("cmmd", [])]
)
def test_a_run_on_the_pretraining_data_of_versamammo_is_named(kind, seen):
    source = {"kind": "versamammo", "path": "v.pth"}
    content = {
        "cohort": {"kind": kind, "source": "data", "key_file": "key"},
        "encoders": {
            "versa": {"kind": "pretrained", "source": source},
            "lite": {"kind": "pretrained"},
        },
    }
    assert load_config(content, "mine.yaml").seen() == seen


def test_the_base_for_matching_latents_does_not_make_weights_stale():
    based, alone = published(), published(base=None)
    assert based.encoders["tuned"].base == "probe"
    wildcards = {"encoder": "tuned"}
    assert based.slice("import_encoder", wildcards) == alone.slice("import_encoder", wildcards)


def test_latents_are_judged_again_on_an_external_split_only_if_there_is_one():
    own = {"cohort": {"kind": "vindr", "source": "/a"}}
    assert load_config(own, "x").replication.splits == ()
    own["cohort"]["external"] = "/b"
    assert load_config(own, "x").replication.splits == ("external",)
    assert load_config(own | {"replication": {"splits": []}}, "x").replication.splits == ()
    assert load_config({}, "x").replication.splits == ("external",)
    for split in ("training", "test"):
        with pytest.raises(InputError, match=f"replication.splits: .* '{split}' images; name"):
            load_config({"replication": {"splits": [split]}}, "x")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    config = load_config({"results": str(tmp_path / "results")}, "configuration")
    config.check_writable()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=f"folder {tmp_path} can't be written"):
        config.check_writable()
