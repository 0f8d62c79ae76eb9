"""If the advice in a message about a configuration is followed, the configuration is accepted."""

from __future__ import annotations

import re

import pytest

from mammo_sae.config import load_config, read_config
from mammo_sae.errors import InputError

# The wrong configuration, its message, and the corrected configuration. $ is the value that the
# message suggests.
CASES = {
    "a misspelt key": (
        "confunds: {alpha: 0.1}",
        r"confunds: unknown key; .* did you mean '(\w+)'\?",
        "$: {alpha: 0.1}",
    ),
    "a key that is nowhere": (
        "atlas: 1",
        "atlas: unknown key; remove it",
        "{}",
    ),
    "a number that YAML reads as text": (
        "saes: {topk: {lr: 1e-4}}",
        r"saes\.topk\.lr: .*write (\S+)",
        "saes: {topk: {lr: $}}",
    ),
    "a whole number in quotes": (
        "saes: {topk: {steps: '40'}}",
        r"saes\.topk\.steps: .*write (\S+)",
        "saes: {topk: {steps: $}}",
    ),
    "a date for a name": (
        "name: 2024-05-01",
        "name: YAML reads 2024-05-01 as a date; put it in quotes",
        "name: '2024-05-01'",
    ),
    "a number for a name": (
        "name: 2024",
        "name: .*put it in quotes",
        "name: '2024'",
    ),
    "a key that is no text": (
        "encoders: {1: {kind: pretrained}}",
        "encoders: YAML reads the key 1 as no text; put it in quotes",
        "encoders: {'1': {kind: pretrained}}",
    ),
    "a number beyond all": (
        "saes: {topk: {steps: 99999999999999999999}}",
        r"saes\.topk\.steps: the number is beyond (\d+), .*; lower it",
        "saes: {topk: {steps: 4000}}",
    ),
    "a kind that is none": (
        "cohort: {source: /data, kind: vindrr}",
        r"cohort\.kind: must be .*; did you mean '(\w+)'",
        "cohort: {source: /data, kind: $}",
    ),
    "a source that is missing": (
        "cohort: {kind: vindr}",
        r"cohort\.source: missing; give it a value",
        "cohort: {kind: vindr, source: /data}",
    ),
    "a key file that is missing": (
        "cohort: {kind: table, source: /data}",
        r"cohort\.key_file: missing; give it a value",
        "cohort: {kind: table, source: /data, key_file: /secret.key}",
    ),
    "a layer named twice": (
        "layers: [head, head]",
        "layers: .* names a layer twice; remove one",
        "layers: [head]",
    ),
    "a layer that no encoder has": (
        "layers: [blocks.99]",
        r"layers: 'blocks\.99' is not a layer of encoder 'pretrained', which has (\S+) to",
        "layers: [$]",
    ),
    "a base that is no encoder": (
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: three}}",
        r"encoders\.two\.base: 'three' is not a pretrained encoder here; name one of (\w+)",
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: $}}",
    ),
    "a base where no encoder is pretrained": (
        "encoders: {two: {kind: finetuned, base: one}}",
        r"encoders\.two\.base: 'one' is not a pretrained encoder here; add one",
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one}}",
    ),
    "an encoder that is its own base": (
        "encoders: {one: {kind: pretrained, base: one}}",
        r"encoders\.one\.base: names the encoder itself; name another, or (null)",
        "encoders: {one: {kind: pretrained, base: $}}",
    ),
    "a base of another architecture": (
        "encoders: {one: {kind: pretrained}, two: {kind: pretrained, base: one, source: "
        "{kind: mammo_clip, path: b5.pth}}}",
        r"encoders\.two\.base: .*; name the encoder that it started from, or (null)",
        "encoders: {one: {kind: pretrained}, two: {kind: pretrained, base: $, source: "
        "{kind: mammo_clip, path: b5.pth}}}",
    ),
    "no encoder at all": (
        "encoders: {pretrained: null, finetuned: null}",
        "encoders: null leaves none; give one of them a value",
        "encoders: {pretrained: {kind: pretrained}, finetuned: null}",
    ),
    "augmentation over stored maps": (
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one, freeze: "
        "blocks.2, recipe: {augmentation: mammo_clip}}}",
        r"set freeze to null or augmentation to (\w+)",
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one, freeze: "
        "blocks.2, recipe: {augmentation: $}}}",
    ),
    "augmentation over stored maps, freeze taken out": (
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one, freeze: "
        "blocks.2, recipe: {augmentation: mammo_clip}}}",
        "set freeze to (null) or augmentation",
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one, freeze: "
        "$, recipe: {augmentation: mammo_clip}}}",
    ),
    "a validation split that is not made": (
        "latents: {confirmation: validation}",
        r"latents\.confirmation: 'validation' is a split .*; set (cohort\.validation_share), or",
        "cohort: {kind: phantom, validation_share: 0.2}\nlatents: {confirmation: validation}",
    ),
    "an external split without its folder": (
        "cohort: {kind: vindr, source: /data}\nprobes: {splits: [external]}",
        r"probes\.splits: 'external' .*; name its folder under (cohort\.external), or",
        "cohort: {kind: vindr, source: /data, external: /more}\nprobes: {splits: [external]}",
    ),
    "findings scored by patient": (
        "cohort: {kind: vindr, source: /data, labels: finding}\nlatents: {unit: patient}",
        r"latents\.unit: .*; set latents\.unit to (image), or cohort\.labels to image",
        "cohort: {kind: vindr, source: /data, labels: finding}\nlatents: {unit: $}",
    ),
    "findings scored by patient, labels by image": (
        "cohort: {kind: vindr, source: /data, labels: finding}\nlatents: {unit: patient}",
        r"latents\.unit: .*, or cohort\.labels to (image)",
        "cohort: {kind: vindr, source: /data, labels: $}\nlatents: {unit: patient}",
    ),
    "images cropped a second time": (
        "cohort: {kind: mammo_clip, source: pngs}\nimages: {preprocessing: mammo_clip}",
        r"images\.preprocessing: .* a second time; set it to (\w+)",
        "cohort: {kind: mammo_clip, source: pngs}\nimages: {preprocessing: $}",
    ),
    "an inner layer that is none": (
        "inner: {layers: [head]}",
        r"inner\.layers: 'head' is not an inner layer; name blocks\.N, or none",
        "inner: {layers: [blocks.10]}",
    ),
    "a concept of the truth that is none": (
        "truth: {concept: cyst}",
        r"truth\.concept: 'cyst' is not a concept of this cohort; name (\w+)",
        "truth: {concept: $}",
    ),
    "a concept of the truth that the phantom does not draw": (
        "cohort: {kind: phantom, concepts: {mass: Mass, dense: DENSITY D}}\n"
        "truth: {concept: dense}",
        r"truth\.concept: 'dense' .* name a concept that is (\w+) or",
        "cohort: {kind: phantom, concepts: {lump: $, dense: DENSITY D}}\ntruth: {concept: lump}",
    ),
    "an entry twice": (
        "interventions: {top_k: [0, 1, 1]}",
        r"interventions\.top_k: .* has an entry twice; remove one",
        "interventions: {top_k: [0, 1]}",
    ),
    "more active latents than there are": (
        "saes: {tiny: {latents: 8, variant: {name: topk, k: 16, k_aux: 4}}}",
        r"variant\.k = 16 is more than latents = (\d+); lower it",
        "saes: {tiny: {latents: 8, variant: {name: topk, k: $, k_aux: 4}}}",
    ),
    "a schedule longer than the run": (
        "saes: {tiny: {warm_up: 0.6, decay: 0.6}}",
        r"warm_up \+ decay = 1\.2 is more than the whole run; lower one",
        "saes: {tiny: {warm_up: 0.1, decay: 0.6}}",
    ),
    "a seed twice": (
        "saes: {tiny: {seeds: [0, 0]}}",
        "seeds .* holds a seed twice; remove one",
        "saes: {tiny: {seeds: [0]}}",
    ),
    "a key of an earlier version": (
        "probing: {bootstrap_draws: 20}",
        "probing: is called (latents) now; rename the key",
        "$: {bootstrap_draws: 20}",
    ),
    "a concept and a covariate of one name": (
        "cohort: {kind: vindr, source: /data, concepts: {mass: Mass}, covariates: {mass: "
        "Window Center}}",
        "mass names two columns of the images table; rename one",
        "cohort: {kind: vindr, source: /data, concepts: {mass: Mass}, covariates: "
        "{window: Window Center}}",
    ),
    "the paper's SAE under another name": (
        "report: {published: {sae: mammo_sae}}",
        r"report\.published\.sae: 'mammo_sae' is no SAE here; name (\w+)",
        "report: {published: {sae: $}}",
    ),
    "the paper's layer left out": (
        "layers: [blocks.10]\nreport: {published: {sae: topk}}",
        r"report\.published: the paper's layer is `(head)`; add it to layers",
        "layers: [blocks.10, $]\nreport: {published: {sae: topk}}",
    ),
    "a path beginning with a dash": (
        "results: -results",
        "'-results' begins with '-' .*; use another path",
        "results: results",
    ),
    "a path that no rule can pass on": (
        "results: 're{sults'",
        "holds the character '{', .*; use a path without it",
        "results: results",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_advice_of_a_message_is_accepted(case, tmp_path):
    wrong, said, right = CASES[case]
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(InputError) as refused:
        read_config([tmp_path / "wrong.yaml"])
    found = re.search(said, str(refused.value))
    assert found, refused.value
    (tmp_path / "right.yaml").write_text(right.replace("$", *found.groups() or [""]))
    read_config([tmp_path / "right.yaml"])


@pytest.mark.parametrize(
    ("step", "wildcards"),
    [("train_sae", {}), ("train_sae", {"layer": "head"}), ("phantom", {}), ("extract", {})],
)
def test_wildcards_that_a_message_names_are_those_that_a_step_takes(step, wildcards):
    config, given = load_config({}, "x"), dict(wildcards)
    for _ in range(5):
        try:
            config.check_wildcards(step, given)
        except InputError as error:
            name, value = re.search(r": give (\w+)=([\w.]+)", str(error)).groups()
            given[name] = value
    config.check_wildcards(step, given)
    assert config.slice(step, given).startswith("{")
