"""Requirements of every rule of the workflow, checked in the text of the rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from mammo_sae.arguments import read_functions
from mammo_sae.digests import module_path
from mammo_sae.resources import NEEDS
from mammo_sae.steps import STEPS

RULES = Path(__file__).parents[1] / "workflow" / "rules"
FILES = sorted(RULES.glob("*.smk"))


def rules(files: Sequence[Path] = FILES) -> dict[str, str]:
    """Return rule -> its text, followed by the text of the rule that it extends."""
    own: dict[str, str] = {}
    other: dict[str, str] = {}
    for file in files:
        for text in re.split(r"(?m)^ *(?=(?:use )?rule \w+)", file.read_text())[1:]:
            head = re.match(r"rule (?P<name>\w+):|use rule (\w+) as (\w+) with:", text)
            assert head, text[:60]
            name = head["name"] or head[3]
            own[name] = text
            if head[2]:
                other[name] = head[2]
    return {name: text + own.get(other.get(name, ""), "") for name, text in own.items()}


def shells() -> dict[str, str]:
    """Return rule -> its shell command, as written."""
    found = {}
    for name, text in rules().items():
        command = re.search(r'(?m)^ +shell:\n((?: +".*"\n?)+)', text)
        assert command, name
        lines = [line.strip()[1:-1] for line in command[1].splitlines()]
        found[name] = "".join(lines)
    return found


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", text))


def test_every_word_that_enters_a_shell_line_is_quoted():
    for rule, command in shells().items():
        for field in re.findall(r"(?<!{){([^{}]*)}", command):
            assert field.endswith(":q") or field == "threads", f"{rule}: {{{field}}}"


def test_every_rule_is_the_step_and_the_verb_of_its_name():
    for rule, command in shells().items():
        alone = command.replace("python -m {params.launch:q} ", "python -m ")
        verb = alone.removeprefix("python -m mammo_sae ").partition(" ")[0]
        if verb == "{params.step:q}":
            assert f'step="{rule}"' in rules()[rule]
        else:
            assert verb == rule
    assert rules().keys() == STEPS.keys() | {"fetch_checkpoint"}


@pytest.mark.parametrize("rule", STEPS)
def test_the_options_of_a_rules_command_are_the_arguments_of_its_step(rule):
    arguments = read_functions(STEPS[rule].module)["run"].arguments
    names = {f"--{argument.name.replace('_', '-')}": argument.required for argument in arguments}
    text, command = rules()[rule], shells()[rule]
    written = options(command)
    if "{params.inputs:q}" in command:
        given = re.search(r"(?ms)^ +input:\n(.*?)^ +output:", text)
        assert given
        written |= {f"--{n.replace('_', '-')}" for n in re.findall(r"(?m)^ {8}(\w+)=", given[1])}
    params = re.search(r"(?ms)^ +params:\n(.*?)^ +message:", text)
    assert params
    written |= options(params[1])
    if "trained_beside" in params[1]:
        written.add("--beside")
    assert {name for name, required in names.items() if required} <= written <= names.keys()


def test_every_parameter_that_a_caption_names_is_one_of_its_rule():
    """Snakemake notices a missing parameter only when it makes the report, after the whole run."""
    named = set()
    for rule, text in rules().items():
        for caption in re.findall(r'caption="([^"]+)"', text):
            words = (RULES / caption).read_text(encoding="utf-8")
            for parameter in re.findall(r"snakemake\.params\.(\w+)", words):
                assert re.search(rf"(?m)^ +{parameter}=", text), (rule, caption, parameter)
                named.add(parameter)
    assert named == {"split", "min_kept", "least", "weak"}


def test_every_file_of_rules_is_short():
    assert [file.name for file in FILES if len(file.read_text().splitlines()) >= 250] == []


@pytest.mark.parametrize("handler", ["onstart", "onsuccess"])
def test_a_handler_is_defined_once_because_a_second_would_replace_it(handler):
    assert sum(file.read_text().count(f"\n{handler}:") for file in FILES) == 1


def test_every_rule_has_a_log_a_benchmark_and_a_code_of_its_own_name():
    for rule in STEPS:
        text = rules()[rule]
        first = {word: text.index(word) for word in ("log_of(", "benchmark_of(", "code=code(")}
        for word, place in first.items():
            assert text[place:].startswith(f'{word}"{rule}"'), rule


@pytest.mark.parametrize("rule", STEPS)
def test_a_rule_reserves_a_gpu_exactly_if_its_step_uses_one(rule):
    code = module_path(STEPS[rule].module).read_text()
    reserved = re.findall(r"gpu=(\w+),", rules()[rule])
    # The first job of a layer trains all its SAEs, so these jobs take turns without a GPU too.
    expected = "1" if rule == "train_sae" else "gpu"
    assert reserved == ([expected] if "fastest_device(" in code else [])


@pytest.mark.parametrize("rule", [rule for rule in STEPS if "gpu=" in rules()[rule]])
def test_a_rule_on_the_gpu_has_the_threads_of_torch(rule):
    assert "threads: torch_threads" in rules()[rule]


def test_every_rule_asks_for_the_memory_and_time_of_its_formula():
    for rule, text in rules().items():
        assert "mem_mb=memory," in text, f"{rule}: see NEEDS in resources.py"
        assert "runtime=minutes," in text, f"{rule}: see NEEDS in resources.py"
    assert rules().keys() == NEEDS.keys()


def test_every_table_and_figure_is_in_the_reports_job():
    names = rules([RULES / f"{file}.smk" for file in ("report", "figures", "figures_of_saes")])
    groups = yaml.safe_load((RULES.parents[1] / "profiles/slurm/profile.yaml").read_text())[
        "groups"
    ]
    assert {name for name, group in groups.items() if group == "report"} == set(names)
