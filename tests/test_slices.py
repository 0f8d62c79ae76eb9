"""Every key of the configuration is part of the settings of exactly the documented rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from mammo_sae.config import Config, load_config
from mammo_sae.demo import DEMO
from mammo_sae.errors import InputError
from mammo_sae.phantom.settings import ArtefactSettings, ConfounderSettings
from mammo_sae.settings import Settings
from mammo_sae.steps import STEPS, Step
from test_rules import rules, shells

PAGE = Path(__file__).parents[1] / "docs" / "staleness.md"
# Without the controls, whose values restrict each other. Their keys are those of every SAE.
CONFIG = load_config({**DEMO, "saes": {"topk": DEMO["saes"]["topk"]}}, "demo")
WILDCARDS = {
    "part": ("training", "test", "external"),
    "encoder": tuple(CONFIG.encoders),
    "layer": tuple(CONFIG.layers),
    "sae": tuple(CONFIG.saes),
    "seed": ("0",),
}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    # Shares that must sum to 1 are changed together.
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
        for values in product(*(WILDCARDS[name] for name in entry.wildcards)):
            wildcards = dict(zip(entry.wildcards, values, strict=True))
            encoder = config.encoders.get(wildcards.get("encoder"))
            if encoder is not None and not isinstance(encoder, entry.settings):
                continue
            found[step, *values] = json.loads(config.slice(step, wildcards))
    return found


DUMPED = CONFIG.model_dump(mode="json")
KEYS = [key for key, _ in _leaves(DUMPED) if not key.endswith((".kind", ".name", ".preprocessing"))]


ODDS_OF_ARTEFACTS = ("marker.odds_ratio", "vendor.odds_ratio", "paddle.odds_ratio")
BEFORE = _slices(CONFIG)


def _other(value: Any) -> Any:
    """Return another value of the same type."""
    if value is None:
        return 2
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
        if old is None and isinstance(model, ConfounderSettings):
            new = ArtefactSettings(odds_ratio=2.0)
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


def _fields(kind: Any) -> set[str]:
    """Return the names of the fields of settings, or of all members of a union of settings."""
    own = set(getattr(kind, "model_fields", ()))
    return own.union(*(_fields(member) for member in get_args(kind)))


def _reads(step: Step, key: list[str]) -> bool:
    """Return whether, by the step's row, its settings contain the value of a key."""
    keys = [*step.inner_keys.items(), ("", step.key)] if step.settings else []
    for place, whole in keys:
        parts = whole.split(".")
        if len(key) >= len(parts) and all(
            part == given or part.startswith("{") for part, given in zip(parts, key, strict=False)
        ):
            rest = [*place.split("."), *key[len(parts) :]] if place else key[len(parts) :]
            if not rest or rest[0] in _fields(step.settings):
                return True
    return False


def test_the_rows_tell_which_kind_of_encoder_a_step_is_of():
    # Both are under one key; the type of the settings distinguishes them.
    for step, name in (("import_encoder", "pretrained"), ("finetune", "finetuned")):
        CONFIG.check_wildcards(step, {"encoder": name})
        with pytest.raises(InputError, match=f"choose {name}"):
            other = {"pretrained": "finetuned", "finetuned": "pretrained"}[name]
            CONFIG.check_wildcards(step, {"encoder": other})


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_part_of_the_settings_of_exactly_the_steps_that_name_it(key):
    expected = {name for name, step in STEPS.items() if _reads(step, _path(key))}
    if key.startswith("encoders."):
        expected &= {"import_encoder" if ".pretrained." in key else "finetune"}
    # The base of a pretrained encoder is only compared with it, and does not change its weights.
    if key == "encoders.pretrained.base":
        expected = set()
    # The phantom's patients are not drawn into splits. Seed and concepts matter only for a draw.
    if key.startswith(("cohort.split_seed", "cohort.concepts")):
        expected -= {"splits"}
    # The pairs have patients of their own, and artefacts that are independent of findings.
    if key == "phantom.patients.pairs":
        expected = {"pairs"}
    elif key.startswith("phantom.patients") or key.endswith(ODDS_OF_ARTEFACTS):
        expected -= {"pairs"}
    assert _steps_of(key) == expected


def test_a_step_reads_every_key_except_the_name_and_folder_of_the_run():
    read = {key.split(".")[0] for key in KEYS if _steps_of(key)}
    unread = {key.split(".")[0] for key in KEYS} - read
    assert unread == {"name", "results", "layers", "keep_embeddings"}


def test_every_rule_takes_its_own_slice_and_its_own_code():
    for name, step in STEPS.items():
        block = rules()[name]
        assert f'code=code("{name}")' in block, name
        settings = step.settings is not None
        assert (f'cfg=cfg("{name}")' in block) == settings, name
        assert ("--settings {params.cfg:q}" in shells()[name]) == settings, name
        assert "config[" not in block, name


def test_the_step_and_the_module_of_a_table_have_its_name():
    # The scores of all encoders are one table, inner layers add rows to `interventions` and
    # `ablation`, the table of a figure's counts has the name of the figure, alignment and
    # replication write several tables, and naming a table of phrases.
    others = {"evaluate_encoder", "inner", "inner_ablation", "figure_cohort", "alignment"}
    others |= {"replication", "naming"}
    for name, step in STEPS.items():
        if step.tables and name not in others:
            assert step.tables == (name,)
            room, module = step.module.split(".")[-2:]
            assert name in {module, f"{room}_{module}"}


BEGIN = "<!-- Written by tests/test_slices.py: the steps. -->"
END = "<!-- End of the steps. -->"


def table() -> str:
    """Return the rows of the steps in the form of the page on staleness."""
    lines = ["| step | module | its settings | its tables |", "|---|---|---|---|"]
    for name, step in STEPS.items():
        keys = [step.key, *step.inner_keys.values()] if step.settings is not None else []
        words = (f"`{key}`".replace("{", "<").replace("}", ">") for key in keys)
        shown = ", ".join(dict.fromkeys(words))
        module = step.module.removeprefix("mammo_sae.")
        tables = ", ".join(f"`{one}`" for one in step.tables)
        lines.append(f"| `{name}` | `{module}` | {shown or 'none'} | {tables or 'none'} |")
    return "\n".join([BEGIN, "", *lines, "", END])


def test_the_page_shows_the_rows_as_they_are():
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == table()


def write_table() -> None:
    """Write the rows into the page. The text around them is kept."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    PAGE.write_text(before + table() + after, encoding="utf-8")


if __name__ == "__main__":
    write_table()
