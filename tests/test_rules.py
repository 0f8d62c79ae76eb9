"""What every rule of the workflow must hold to, read from the rules' text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mammo_sae.digests import module_path
from mammo_sae.steps import STEPS

RULES = Path(__file__).parents[1] / "workflow" / "rules"
FILES = sorted(RULES.glob("*.smk"))


def shells(text: str) -> dict[str, str]:
    """Return rule -> its shell command, as written."""
    found = {}
    for rule in re.split(r"(?m)^ *rule (?=\w+:$)", text)[1:]:
        command = re.search(r'(?m)^ +shell:\n((?: +".*"\n?)+)', rule)
        assert command, rule[:60]
        lines = [line.strip()[1:-1] for line in command[1].splitlines()]
        found[rule.partition(":")[0]] = "".join(lines)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_word_that_enters_a_shell_line_is_quoted(file):
    for rule, command in shells(file.read_text()).items():
        for field in re.findall(r"(?<!{){([^{}]*)}", command):
            assert field.endswith(":q") or field == "threads", f"{rule}: {{{field}}}"


def test_rules_are_found_in_their_text():
    names = [name for file in FILES for name in shells(file.read_text())]
    assert {"phantom", "fetch_checkpoint", "train_sae", "figure_truth"} <= set(names)
    assert len(names) == sum(
        len(re.findall(r"(?m)^ *rule \w+:$", file.read_text())) for file in FILES
    )


def rules() -> dict[str, str]:
    """Return rule -> its text."""
    found = {}
    for file in FILES:
        for text in re.split(r"(?m)^ *rule (?=\w+:$)", file.read_text())[1:]:
            found[text.partition(":")[0]] = text
    return found


@pytest.mark.parametrize("rule", STEPS)
def test_a_rule_reserves_a_gpu_exactly_if_its_step_uses_one(rule):
    code = module_path(STEPS[rule].module).read_text()
    assert ("gpu=1," in rules()[rule]) == ("fastest_device(" in code)


@pytest.mark.parametrize("rule", [rule for rule in STEPS if "gpu=1," in rules()[rule]])
def test_a_rule_on_the_gpu_takes_all_cores_of_a_machine_without_one(rule):
    assert "threads: TORCH_THREADS" in rules()[rule]


def test_every_rule_asks_for_more_memory_and_time_when_tried_again():
    for path in FILES:
        text = path.read_text()
        jobs = text.count("    shell:\n")
        assert text.count("mem_mb=attempts(") == text.count("runtime=attempts(") == jobs, path


def test_every_table_and_figure_is_in_the_reports_job():
    rules = re.findall(r"(?m)^rule (\w+):", (RULES / "report.smk").read_text())
    groups = yaml.safe_load((RULES.parents[1] / "profiles/slurm/profile.yaml").read_text())[
        "groups"
    ]
    assert {name for name, group in groups.items() if group == "report"} == set(rules)
