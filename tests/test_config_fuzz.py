"""Randomly changed configurations: each is read, or refused in one sentence of this package."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo_sae.config import Config, load_config, read_config
from mammo_sae.demo import DEMO
from mammo_sae.errors import InputError
from mammo_sae.steps import STEPS

FEW, MANY = 300, 20_000
WHOLE = load_config(DEMO, "demo").model_dump(mode="json")
OWN = {
    **WHOLE,
    "cohort": {"kind": "vindr", "source": "/data/röntgen (1)"},
    "saes": {"l1": {"variant": {"name": "l1"}}},
}
# Wrong values that may replace the value of a key.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 10**9, 2**31, 10**40, -(10**30), 0.0, -0.5, 1e-308, 1e308,
    math.nan, math.inf, -math.inf, "", " ", "a" * 300, "x" * 20_000, "ä ö", "a\nb", "\x00",
    "\ud800", "$HOME", "`id`", "'; rm -rf /; '", "{wildcard}", "../..", "~", "~nobody-of-that-name",
    "1e-4", "yes", "null", "0x10", "2024-05-01", date(2024, 5, 1), b"bytes", {1, 2}, (1, 2), [], {},
    [None], [[]], [{}], {"": 1}, {None: 1}, {True: 1}, {1: 2}, {date(2024, 5, 1): 1}, {"a": None},
    {"kind": "phantom"}, {"kind": 7}, {"name": "topk"}, {"name": []}, ["head", "head"],
    ["blocks.0"], object(),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(
        value, list
    ) else ()  # fmt: skip
    return found + [place for key, item in items for place in places(item, (*path, key))]


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a copy of `value` in which `change(parent, key)` was done at `path`."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    head, *rest = path
    if rest:
        copy[head] = changed(copy[head], tuple(rest), change)
    else:
        change(copy, head)
    return copy


def mutated(draw: random.Random) -> Any:
    """Return a configuration with one to three keys replaced, renamed, removed or added."""
    content: Any = draw.choice([WHOLE, OWN])
    for _ in range(draw.randint(1, 3)):
        place = draw.choice(places(content))
        odd = draw.choice(ODD)

        def change(parent: Any, key: Any, odd: Any = odd) -> None:
            action = draw.choice(["replace", "replace", "remove", "rename", "add"])
            if action == "replace" or not isinstance(parent, dict):
                parent[key] = odd
            elif action == "remove":
                del parent[key]
            elif action == "rename":
                text = str(key)
                at = draw.randrange(len(text) + 1)
                parent[text[:at] + draw.choice("aéX_.- ") + text[at + 1 :]] = parent.pop(key)
            else:
                try:
                    parent[draw.choice(["extra", "kind", "name", 5, None, True])] = odd
                except TypeError:
                    parent["extra"] = odd

        content = changed(content, place, change)
    return content


def is_sound(config: Config) -> None:
    """Check that an accepted configuration can be planned: it has slices and passes of layers."""
    for step, entry in STEPS.items():
        if entry.settings is None:
            continue
        for encoder, own in config.encoders.items():
            wanted = {"import_encoder": "pretrained", "finetune": "finetuned"}.get(step, own.kind)
            if own.kind != wanted:
                continue
            for sae, settings in config.saes.items():
                seed = str(settings.seeds[0])
                wildcards = {"part": "test", "layer": config.layers[0], "seed": seed}
                config.slice(step, {**wildcards, "encoder": encoder, "sae": sae})
            assert config.extracted_layers(encoder)


def check(content: Any, read: Callable[[], Config]) -> str:
    try:
        config = read()
    except InputError as error:
        text = str(error)
        assert "\n" not in text, text
        assert 10 < len(text) < 20_000, text[:200]
        for foreign in ("Traceback", "pydantic", "discriminator", "Input should", "dictionary"):
            assert foreign not in text, text[:500]
        return text
    is_sound(config)
    return ""


@pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_a_mutated_configuration_is_read_or_refused_in_a_sentence(count):
    draw = random.Random(count)
    refused = 0
    for _ in range(count):
        content = mutated(draw)
        refused += bool(check(content, lambda content=content: load_config(content, "mine")))
    assert count // 2 < refused < count


@pytest.mark.parametrize(
    "count", [FEW // 3, pytest.param(MANY // 10, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_the_text_of_a_configuration_with_bytes_changed_is_read_or_refused(count, tmp_path):
    draw = random.Random(count)
    file: Path = tmp_path / "mine.yaml"
    short = {"name": "x", "layers": ["head"], "saes": {"a": {"lr": 0.1, "seeds": [0, 1]}}}
    whole = yaml.safe_dump(short).encode()
    marks = b"{}[]:,&*!|>'\"%@`#-?\n\t \\~=<\x00\xff\xe4" + bytes(range(48, 58))
    for _ in range(count):
        text = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(text))
            action = draw.random()
            if action < 0.5:
                text[at] = draw.choice(marks)
            elif action < 0.8:
                text.insert(at, draw.choice(marks))
            else:
                end = at + draw.randint(1, 12)
                text[at:at] = text[at:end] if action < 0.9 else b""
                del text[at : at + (action >= 0.9) * 3]
        file.write_bytes(bytes(text))
        check(bytes(text), lambda: read_config([file]))


# The repr of an object has its address, so test names would differ between worker processes.
@pytest.mark.parametrize("odd", ODD, ids=[f"{n}-{type(odd).__name__}" for n, odd in enumerate(ODD)])
def test_an_odd_value_for_the_whole_is_refused_or_is_the_default(odd):
    for key in Config.model_fields:
        check(odd, lambda key=key: load_config({key: odd}, "mine"))


@pytest.mark.parametrize("nesting", [100, 5_000, 100_000])
@pytest.mark.parametrize("bracket", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_in_a_sentence(nesting, bracket, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("saes: " + bracket * nesting)
    with pytest.raises(InputError) as error:
        read_config([file])
    assert "\n" not in str(error.value)
