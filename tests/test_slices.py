"""Every key of the configuration, and the rules whose settings it is part of: no more, no fewer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from mammo_sae.config import Config, load_config
from mammo_sae.demo import DEMO
from mammo_sae.settings import Settings
from mammo_sae.steps import STEPS
from test_rules import rules, shells

CONFIG = load_config(DEMO, "demo")
WILDCARDS = {
    "part": ("training", "test", "external"),
    "encoder": tuple(CONFIG.encoders),
    "layer": tuple(CONFIG.layers),
    "sae": tuple(CONFIG.saes),
    "seed": ("0",),
}
# Which of them a step's settings depend on.
USED = {
    "phantom": ("part",),
    "import_encoder": ("encoder",),
    "finetune": ("encoder",),
    "train_sae": ("layer", "sae", "seed"),
}
# Keys -> the steps whose settings hold them. The first pattern that matches counts.
EXPECTED = [
    (r"name|results|layers", set()),
    (r"cohort\.key_file", {"cohort", "images", "splits"}),
    (r"cohort\.shards", {"cohort", "images"}),
    (r"cohort\.validation_share", {"cohort", "splits"}),
    (r"cohort\..*", {"cohort"}),
    (r"phantom\..*", {"phantom"}),
    (r"images\..*", {"images"}),
    # A pretrained encoder's base says what it is compared with: its own weights stay the same.
    (r"encoders\.pretrained\.base", set()),
    (r"encoders\.pretrained\..*", {"import_encoder"}),
    (r"encoders\.finetuned\..*", {"finetune"}),
    (r"extraction\..*", {"extract"}),
    (r"evaluation\..*", {"evaluate_encoder"}),
    (r"saes\..*\.seeds", set()),
    (r"saes\..*", {"train_sae"}),
    (r"interventions\..*", {"interventions", "classes"}),
]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    # Shares of a whole are changed together.
    if isinstance(value, dict) and value and key != "phantom.density":
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _slices(config: Config) -> dict[tuple[str, ...], Any]:
    """Return the settings of every step, for every combination of its wildcards."""
    found = {}
    for step, entry in STEPS.items():
        if entry.settings is None:
            continue
        names = USED.get(step, ())
        for values in product(*(WILDCARDS[name] for name in names)):
            kind = {"import_encoder": "pretrained", "finetune": "finetuned"}.get(step)
            if kind and config.encoders[values[0]].kind != kind:
                continue
            wildcards = dict(zip(names, values, strict=True))
            found[step, *values] = json.loads(config.slice(step, wildcards))
    return found


DUMPED = CONFIG.model_dump(mode="json")
KEYS = [key for key, _ in _leaves(DUMPED) if not key.endswith((".kind", ".name", ".preprocessing"))]


BEFORE = _slices(CONFIG)


def _other(value: Any) -> Any:
    """Return another value of the same type."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value * 0.97 + 0.0011
    if isinstance(value, Settings):
        first, *_, last = type(value).model_fields
        swapped = {first: getattr(value, last), last: getattr(value, first)}
        return value.model_copy(update={k: v + 1e-9 * (k == first) for k, v in swapped.items()})
    if isinstance(value, list | tuple):
        return type(value)(value[:-1] if value else [1])
    return {"one": "both", "random": "cells", "mean": "median"}.get(value, f"{value}x")


def _steps_of(key: str) -> set[str]:
    """Return the steps whose settings change with a value of the configuration."""

    def changed(model: Any, path: list[str]) -> Any:
        head, *rest = path
        old = model[head] if isinstance(model, dict) else getattr(model, head)
        new = changed(old, rest) if rest else _other(old)
        if isinstance(model, dict):
            return {**model, head: new}
        return model.model_copy(update={head: new})

    after = _slices(changed(CONFIG, _path(key)))
    return {step[0] for step in after if after[step] != BEFORE[step]}


def _path(key: str) -> list[str]:
    """Split a key at its dots, but not at the dot of a layer's name."""
    return re.sub(r"blocks\.(\d+)", r"blocks_\1", key).replace(".", "\0").replace(
        "blocks_", "blocks."
    ).split("\0")  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_part_of_exactly_these_rules_settings(key):
    top = key.split(".")[0]
    expected = next((steps for pattern, steps in EXPECTED if re.fullmatch(pattern, key)), {top})
    if top == "report":
        assert all(step.startswith("figure_") or step == "published" for step in _steps_of(key))
        return
    assert _steps_of(key) == expected


def test_every_rule_takes_its_own_slice_and_its_own_code():
    for name, step in STEPS.items():
        block = rules()[name]
        assert f'code=code("{name}")' in block, name
        settings = step.settings is not None
        assert (f'cfg=cfg("{name}")' in block) == settings, name
        assert ("--settings {params.cfg:q}" in shells()[name]) == settings, name
        assert "config[" not in block, name
