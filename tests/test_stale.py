"""The output of `stale`: every key that it names exists in the configuration."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mammo_sae.config import Config, load_config
from mammo_sae.demo import DEMO
from mammo_sae.errors import InputError
from mammo_sae.stale import differences, explain_staleness
from mammo_sae.steps import STEPS

CONFIG = load_config(DEMO, "demo")
# A part of the phantom and the seed of an SAE are wildcards, and the phantom has no key file and no
# share of test patients. No edit changes these values.
FIXED = {("part",), ("seed",), ("key_file",), ("test_share",)}


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        return [path]
    return [leaf for name, item in value.items() for leaf in leaves(item, (*path, name))]


def written(config: Config, key: str) -> bool:
    """Return whether a configuration has the key."""
    value: Any = config.model_dump(mode="json")
    rest = key
    while rest:
        if not isinstance(value, dict):
            return False
        name = next((name for name in value if rest == name or rest.startswith(f"{name}.")), None)
        if name is None:
            return False
        value, rest = value[name], rest[len(name) + 1 :]
    return True


@pytest.mark.parametrize("step", [name for name, step in STEPS.items() if step.settings])
def test_every_key_that_is_named_is_one_of_the_configuration(step):
    encoder = "finetuned" if step == "finetune" else "pretrained"
    for layer in CONFIG.layers:
        wildcards = {"part": "test", "encoder": encoder, "layer": layer, "sae": "topk", "seed": "0"}
        settings = json.loads(CONFIG.slice(step, wildcards))
        for path in leaves(settings):
            if step in ("phantom", "train_sae", "images", "splits") and path in FIXED:
                continue
            if path == ("phantom", "part"):  # the part of the step `pairs` is fixed
                continue
            key = STEPS[step].key_of(path, CONFIG, wildcards)
            assert written(CONFIG, key), key


@pytest.mark.parametrize(
    ("rule", "path", "key"),
    [
        ("splits", ("categories",), "cohort.concepts"),
        ("splits", ("validation_share",), "cohort.validation_share"),
        ("images", ("images", "height"), "images.height"),
        ("images", ("concepts", "mass"), "cohort.concepts.mass"),
        ("phantom", ("patients",), "phantom.patients.test"),
        ("pairs", ("phantom", "patients"), "phantom.patients.pairs"),
        ("pairs", ("phantom", "mass", "radius"), "phantom.mass.radius"),
        ("pairs", ("images", "height"), "images.height"),
        ("figure_latents", ("latents",), "report.latents.latents"),
        ("figure_cohort", ("examples",), "report.cohort.examples"),
        ("train_sae", ("lr",), "saes.topk.layers.head.lr"),
        ("train_sae", ("variant", "k"), "saes.topk.layers.head.variant.k"),
        ("train_sae", ("warm_up",), "saes.topk.warm_up"),
        ("evaluate_encoder", ("seed",), "evaluation.seed"),
        ("configuration", ("latents", "seed"), "latents.seed"),
    ],
)
def test_a_setting_is_named_by_its_key(rule, path, key):
    wildcards = {"part": "test", "encoder": "pretrained", "layer": "head", "sae": "topk"}
    assert STEPS[rule].key_of(path, CONFIG, wildcards) == key


@pytest.mark.workflow
@pytest.mark.parametrize("lost", ["folder", "directory"])
def test_the_folders_of_a_project_that_are_given_as_advised_are_planned(tmp_path, lost):
    (tmp_path / "Snakefile").write_text("rule all:\n    input: []\n")
    given = {"folder": tmp_path, "directory": tmp_path}
    with pytest.raises(InputError) as refused:
        explain_staleness(configs=[], **given | {lost: tmp_path / "elsewhere"})
    said = re.search(
        r"elsewhere\S* is missing; give the project's (folder), and --(directory)$",
        str(refused.value),
    )
    assert {*said.groups()} == given.keys()
    assert explain_staleness(configs=[], **given) == ["Nothing is stale."]


def test_differences_are_found_leaf_by_leaf():
    old, new = {"a": {"b": 1, "c": [2]}, "d": 3}, {"a": {"b": 1, "c": [4]}, "e": 5}
    found = {path: (was, now) for path, was, now in differences(old, new)}
    assert found[("a", "c")] == ([2], [4])
    assert found.keys() == {("a", "c"), ("d",), ("e",)}
