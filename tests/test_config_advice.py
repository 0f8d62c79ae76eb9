"""If the advice in a message about a configuration is followed, the configuration is accepted."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import yaml

from mammo_sae.config import load_config, read_config
from mammo_sae.errors import InputError

# The wrong configuration, its message, and the corrected configuration. $ is the value that the
# message suggests.
CASES = {
    "an SAE on a layer that is not there": (
        "saes: {topk: {only: {layers: [block.10]}}}",
        r"'block\.10' is not among the layers of this run; name (\S+), .* or null",
        "saes: {topk: {only: {layers: [$]}}}",
    ),
    "an SAE on an encoder that is not there": (
        "saes: {topk: {only: {encoders: [tuned]}}}",
        r"'tuned' is not among the encoders of this run; name .*, or (null)",
        "saes: {topk: {only: {encoders: $}}}",
    ),
    "an SAE on a layer that is named twice": (
        "saes: {topk: {only: {layers: [head, head]}}}",
        r"saes\.topk\.only\.layers: head and head has an entry twice; remove one",
        "saes: {topk: {only: {layers: [head]}}}",
    ),
    "a published SAE that is not trained on the head": (
        "saes: {topk: {only: {layers: [blocks.10]}}}\nreport: {published: {sae: topk, "
        "finetuned_mass: finetuned}}",
        r"report\.published\.finetuned_mass: the SAE 'topk' is not trained on the (head) of "
        r"'finetuned'; add them to saes\.topk\.only",
        "saes: {topk: {only: {layers: [blocks.10, $]}}}\nreport: {published: {sae: topk, "
        "finetuned_mass: finetuned}}",
    ),
    "phrases of an encoder that is not pretrained": (
        "text: {kind: table, path: phrases.csv, encoder: finetuned}",
        r"text\.encoder: 'finetuned' is not a pretrained encoder here; name (\w+)",
        "text: {kind: table, path: phrases.csv, encoder: $}",
    ),
    "fine-tuning without labels": (
        "cohort: {kind: table, source: a, key_file: b, concepts: {}}\nencoders: {finetuned: "
        "{kind: finetuned, base: pretrained}, pretrained: {kind: pretrained}}",
        r"encoders\.finetuned: without concepts there is nothing to learn; set it to (null)",
        "cohort: {kind: table, source: a, key_file: b, concepts: {}}\nencoders: {finetuned: $, "
        "pretrained: {kind: pretrained}}",
    ),
    "a misspelt key": (
        "confunds: {alpha: 0.1}",
        r"confunds: unknown key; .* did you mean '(\w+)'\?",
        "$: {alpha: 0.1}",
    ),
    "a key that is nowhere": (
        "almanac: 1",
        "almanac: unknown key; remove it",
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
    "one value for a list": (
        "layers: head",
        "layers: must be a (list), got 'head'",
        "layers: [head]",
    ),
    "a list for keys and values": (
        "phantom: [seed, 3]",
        "phantom: must be keys and values, got",
        "phantom: {seed: 3}",
    ),
    "a word for true or false": (
        "images: {preprocessing: mammo_clip, compat: 'yes'}",
        r"images\.compat: must be (true) or false, got 'yes'",
        "images: {preprocessing: mammo_clip, compat: $}",
    ),
    "a part of a step": (
        "saes: {topk: {steps: 1.5}}",
        r"saes\.topk\.steps: must be a whole number, got 1\.5",
        "saes: {topk: {steps: 2}}",
    ),
    "a word for a number": (
        "saes: {topk: {lr: fast}}",
        r"saes\.topk\.lr: must be a number, got 'fast'",
        "saes: {topk: {lr: 0.001}}",
    ),
    "a number that is too small": (
        "cohort: {kind: phantom, shards: 0}",
        r"cohort\.shards: must be (\d+) or more, got 0",
        "cohort: {kind: phantom, shards: $}",
    ),
    "a number that is too large": (
        "saes: {topk: {background: 2}}",
        r"saes\.topk\.background: must be ([\d.]+) or less, got 2",
        "saes: {topk: {background: $}}",
    ),
    "a number that is not above its limit": (
        "saes: {topk: {lr: 0}}",
        r"saes\.topk\.lr: must be more than 0(?:\.0)?, got 0",
        "saes: {topk: {lr: 0.0001}}",
    ),
    "a number that is not below its limit": (
        "cohort: {kind: phantom, validation_share: 1}",
        r"cohort\.validation_share: must be less than 1(?:\.0)?, got 1",
        "cohort: {kind: phantom, validation_share: 0.99}",
    ),
    "a name that is too long": (
        f"name: {'a' * 65}",
        r"name: must be at most 64 characters long",
        f"name: {'a' * 64}",
    ),
    "a text beyond all": (
        f"name: {'a' * 10_001}",
        "name: the text is 10001 characters long; shorten it",
        "name: a",
    ),
    "a name with a blank": (
        "name: my run",
        "name: must be letters, digits, - and _, a letter or digit first, got 'my run'",
        "name: my-run_2",
    ),
    "a concept in capitals": (
        "cohort: {kind: vindr, source: /data, concepts: {Mass: Mass}}",
        r"cohort\.concepts\.Mass: must be lower-case letters, digits and _, a letter first",
        "cohort: {kind: vindr, source: /data, concepts: {mass: Mass}}",
    ),
    "a digest that is none": (
        "saes: {own: {variant: {name: published, path: a.pt, sha256: abc}}}",
        r"saes\.own\.variant\.sha256: must be 64 digits of a SHA-256, 0-9 and a-f",
        f"saes: {{own: {{variant: {{name: published, path: a.pt, sha256: {'abcdef09' * 8}}}}}}}",
    ),
    "an empty list": (
        "layers: []",
        "layers: must hold 1 or more, holds 0",
        "layers: [head]",
    ),
    "an empty path": (
        "cohort: {kind: vindr, source: ''}",
        r"cohort\.source: must not be empty",
        "cohort: {kind: vindr, source: /data}",
    ),
    "a kind that is missing": (
        "encoders: {one: {source: {kind: lite0}}}",
        r"encoders\.one\.kind: missing; it must be (\w+) or finetuned",
        "encoders: {one: {kind: $, source: {kind: lite0}}}",
    ),
    "a number type that is none": (
        "extraction: {precision: float16}",
        r"extraction\.precision: must be float32 or bfloat16, .* did you mean '(\w+)'",
        "extraction: {precision: $}",
    ),
    "no number": (
        "saes: {topk: {lr: .nan}}",
        r"saes\.topk\.lr: nan is no number; give one",
        "saes: {topk: {lr: 0.001}}",
    ),
    "a character that can't be seen": (
        'name: "a\\ab"',
        r"name: the text holds the character '\\x07'; remove it",
        "name: ab",
    ),
    "a type that only YAML has": (
        "name: !!binary aGFsbG8=",
        "name: YAML reads this as bytes, which no key takes; quote text",
        "name: 'aGFsbG8'",
    ),
    "an alias that holds itself": (
        "layers: &all [*all]",
        r"layers.*: nested more than \d+ deep; does an alias hold itself\?",
        "layers: [head]",
    ),
    "aliases that repeat": (
        "layers: &a [1,1,1,1,1,1,1,1]\n"
        + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 8)}]\n" for b, c in pairwise("abcdefgh")),
        "more than 20000 values; do aliases repeat",
        "layers: [head]",
    ),
    "a key that stands twice": (
        "name: a\nname: b",
        "line 2, column 1: the key 'name' stands here a second time; remove one",
        "name: b",
    ),
    "a key that stands twice in JSON": (
        '{"name": "a", "name": "b"}',
        "the key 'name' stands here a second time; remove one",
        '{"name": "b"}',
    ),
    "a list for the whole": (
        "- name: a",
        "must hold keys and values at its top level",
        "name: a",
    ),
    "a frozen layer that no encoder has": (
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one, freeze: b.4}}",
        r"encoders\.two\.freeze: 'b\.4' is not a layer of encoder 'two', which has (\S+) to",
        "encoders: {one: {kind: pretrained}, two: {kind: finetuned, base: one, freeze: $}}",
    ),
    "a validation split that is taken out": (
        "cohort: {kind: phantom}\nlatents: {confirmation: validation}",
        r"latents\.confirmation: 'validation' is a split .*, or remove it here",
        "cohort: {kind: phantom}\nlatents: {}",
    ),
    "an external split that is taken out": (
        "cohort: {kind: vindr, source: /data}\nprobes: {splits: [test, external]}",
        r"probes\.splits: 'external' .*, or remove it here",
        "cohort: {kind: vindr, source: /data}\nprobes: {splits: [test]}",
    ),
    "the paper's encoder under another name": (
        "report: {published: {sae: topk, finetuned_mass: tuned}}",
        r"report\.published\.finetuned_mass: 'tuned' is no encoder here; name \w+ or (\w+)",
        "report: {published: {sae: topk, finetuned_mass: $}}",
    ),
    "the paper's concept left out": (
        "cohort: {kind: vindr, source: /data, concepts: {lump: Mass}}\n"
        "report: {published: {sae: topk, finetuned_mass: finetuned}}",
        r"the cohort has no concept '(\w+)'; add it to cohort\.concepts",
        "cohort: {kind: vindr, source: /data, concepts: {lump: Mass, $: Mass}}\n"
        "report: {published: {sae: topk, finetuned_mass: finetuned}}",
    ),
    "concepts that are all null": (
        "cohort: {kind: vindr, source: /data, concepts: {mass: null}}",
        r"cohort\.concepts: null leaves none; give one of them a value",
        "cohort: {kind: vindr, source: /data, concepts: {mass: Mass}}",
    ),
    "a concept of two classifiers": (
        "encoders: {one: {kind: pretrained, source: {kind: mammo_clip, path: a.pth, "
        "classifier: [mass], heads: [{path: b.pth, classifier: [mass, cyst]}]}}}",
        r"encoders\.one\.source: classifier and heads name (mass) twice; leave it out of one",
        "encoders: {one: {kind: pretrained, source: {kind: mammo_clip, path: a.pth, "
        "classifier: [$], heads: [{path: b.pth, classifier: [cyst]}]}}}",
    ),
    "a concept with the name of a count of rows": (
        "cohort: {kind: vindr, source: /data, labels: finding, concepts: {mass: Mass, "
        "mass_rows: Asymmetry}}",
        "cohort: mass_rows is the column that counts the rows of mass .*; rename it",
        "cohort: {kind: vindr, source: /data, labels: finding, concepts: {mass: Mass, "
        "asymmetry: Asymmetry}}",
    ),
    "one split for discovery and confirmation": (
        "latents: {discovery: test}",
        "latents: discovery and confirmation must be different splits; change one",
        "latents: {discovery: training}",
    ),
    "a weak response above the least": (
        "truth: {least_response: 0.4, weak_response: 0.5}",
        r"truth: weak_response is more than least_response; lower it",
        "truth: {least_response: 0.4, weak_response: 0.3}",
    ),
    "an interval whose ends are exchanged": (
        "phantom: {mass: {radius: [20, 10]}}",
        r"phantom\.mass\.radius: lower end 20\.0 is above upper end 10\.0; swap them",
        "phantom: {mass: {radius: [10, 20]}}",
    ),
    "shares of densities that are not the whole": (
        "phantom: {density: {A: 0.1, B: 0.4, C: 0.4, D: 0.2}}",
        r"phantom\.density: the shares of A, B, C and D sum to 1\.1; make them sum to 1",
        "phantom: {density: {A: 0.1, B: 0.3, C: 0.4, D: 0.2}}",
    ),
    "too few specks": (
        "phantom: {calcification: {specks: [2, 70]}}",
        r"phantom\.calcification\.specks: a cluster has (\d+) to (\d+) specks, the fewest first",
        "phantom: {calcification: {specks: [3, 60]}}",
    ),
    "an image as wide as it is high": (
        "phantom: {height: 200, width: 200}",
        r"phantom: height 200 over width 200 must lie between 1\.2 and 2",
        "phantom: {height: 240, width: 200}",
    ),
    "an angle that nothing uses": (
        "saes: {rand: {variant: {name: random, cosine: 0.5}}}",
        r"saes\.rand\.variant: cosine = 0\.5 has no effect .* set frozen to (\w+)",
        "saes: {rand: {variant: {name: random, cosine: 0.5, frozen: $}}}",
    ),
    "an angle that nothing uses, left out": (
        "saes: {rand: {variant: {name: random, cosine: 0.5}}}",
        r"saes\.rand\.variant: cosine = 0\.5 has no effect .* leave it out or",
        "saes: {rand: {variant: {name: random}}}",
    ),
    "initial cells where nothing is trained": (
        "saes: {parts: {init: cells, variant: {name: pca}}}",
        r"saes\.parts: init = cells has no meaning for variant pca; leave it out",
        "saes: {parts: {variant: {name: pca}}}",
    ),
    "a median of what is centred on the mean": (
        "saes: {parts: {bias: median, variant: {name: pca}}}",
        r"saes\.parts: bias = median has no meaning for variant pca, .*; leave it out",
        "saes: {parts: {variant: {name: pca}}}",
    ),
    "an odd number of latents for pairs": (
        "saes: {parts: {latents: 33, variant: {name: pca}}}",
        r"saes\.parts: latents = 33 is odd, but variant pca .*; make it even",
        "saes: {parts: {latents: 34, variant: {name: pca}}}",
    ),
    "too many active latents in one layer": (
        "saes: {topk: {layers: {head: {latents: 8, variant: {k_aux: 4}}}}}",
        r"saes\.topk\.layers\.head.*variant\.k = 16 is more than latents = (\d+); lower it",
        "saes: {topk: {layers: {head: {latents: 8, variant: {k: $, k_aux: 4}}}}}",
    ),
    "a home folder that is nobody's": (
        "results: ~nobody-of-this-name/results",
        "names a home folder that is not known; write the whole path",
        "results: /home/nobody-of-this-name/results",
    ),
}


def kept(written, found) -> bool:
    """Return whether `found` has all values of `written`; a null entry may be left out."""
    if isinstance(written, list) and isinstance(found, list):
        return len(written) == len(found) and all(map(kept, written, found))
    if isinstance(written, dict) and isinstance(found, dict):
        return all(kept(value, found.get(key)) for key, value in written.items())
    return written == found


@pytest.mark.parametrize("case", CASES)
def test_the_advice_of_a_message_is_accepted(case, tmp_path):
    wrong, said, right = CASES[case]
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(InputError) as refused:
        read_config([tmp_path / "wrong.yaml"])
    found = re.search(said, str(refused.value))
    assert found, refused.value
    (tmp_path / "right.yaml").write_text(right.replace("$", *found.groups()[:1] or [""]))
    accepted = read_config([tmp_path / "right.yaml"]).model_dump(mode="json")
    assert kept(yaml.safe_load((tmp_path / "right.yaml").read_text()), accepted)


# How a file is damaged, and what its message says to do.
FILES = {
    "missing": (lambda path: None, "is missing; give the path of a YAML file"),
    "a folder": (lambda path: path.mkdir(), "can't be read: .*; give the path of a YAML file"),
    "a large file": (
        lambda path: path.write_bytes(b"# " + b"x" * (1 << 20)),
        r"is larger than \d+ bytes; give the path of a YAML file",
    ),
    "another encoding": (
        lambda path: path.write_bytes("name: x  # für später".encode("latin-1")),
        "is not UTF-8 text; save it as UTF-8",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_the_advice_about_a_file_of_a_configuration_is_accepted(case, tmp_path):
    damage, said = FILES[case]
    path, right = tmp_path / "own.yaml", tmp_path / "right.yaml"
    damage(path)
    with pytest.raises(InputError, match=rf"own\.yaml {said}"):
        read_config([path])
    if "save it" in said:
        path.write_text(path.read_bytes().decode("latin-1"), encoding="utf-8")
        right = path
    else:
        right.write_text("name: x")
    assert read_config([right]).name == "x"


def test_a_step_without_an_encoder_runs_with_the_one_that_is_added():
    only = {"encoders": {"one": {"kind": "pretrained"}}}
    with pytest.raises(InputError) as refused:
        load_config(only, "x").check_wildcards("finetune", {"encoder": "two"})
    said = re.search(r"no (\w+) encoder, which step finetune needs; add one", str(refused.value))
    assert said, refused.value
    only["encoders"]["two"] = {"kind": said[1], "base": "one"}
    config = load_config(only, "x")
    config.check_wildcards("finetune", {"encoder": "two"})
    assert '"base":"one"' in config.slice("finetune", {"encoder": "two"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layer": "head", "sae": "l1", "seed": "0"}, r"sae=l1 is not .*; choose (?P<sae>\w+)"),
        ({"layer": "neck", "sae": "topk", "seed": "0"}, r"choose (?P<layer>[\w.]+),"),
        ({"layer": "head", "sae": "topk", "seed": "7"}, r"choose (?P<seed>\d+)"),
    ],
)
def test_a_wildcard_is_one_of_those_that_the_message_names(given, said):
    config = load_config({}, "x")
    with pytest.raises(InputError) as refused:
        config.check_wildcards("train_sae", given)
    right = given | re.search(said, str(refused.value)).groupdict()
    config.check_wildcards("train_sae", right)
    assert f'"seed":{right["seed"]}' in config.slice("train_sae", right)


def test_a_wildcard_that_no_step_has_is_left_out():
    config = load_config({}, "x")
    with pytest.raises(InputError, match=r"foo is not a wildcard of any step; leave it out"):
        config.check_wildcards("phantom", {"part": "test", "foo": "1"})
    config.check_wildcards("phantom", {"part": "test"})
    assert '"part":"test"' in config.slice("phantom", {"part": "test"})


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
