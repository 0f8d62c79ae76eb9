"""`python -m mammo_sae stale` names the keys, modules, pins and files behind what would rerun."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.soak]


def _stale(project, *overlays):
    options = []
    for number, text in enumerate(overlays):
        (project.folder / f"overlay{number}.yaml").write_text(text)
        options += ["--configfile", f"overlay{number}.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "mammo_sae", "stale", "--configfile", "micro.yaml", *options],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def edited(micro_finished):
    """Edit files of the finished run. They are restored after the test."""
    kept = {}

    def edit(file, old, new):
        path = micro_finished.folder / file
        kept.setdefault(path, path.read_text())
        micro_finished.edit(file, old, new)

    yield edit
    for path, text in kept.items():
        path.write_text(text)


def test_a_finished_run_is_not_stale(micro_finished):
    assert _stale(micro_finished) == (0, ["Nothing is stale."], "")


def test_keys_are_named_with_both_values_each_with_its_own_rules(micro_finished):
    _, lines, _ = _stale(
        micro_finished, "saes: {topk: {lr: 0.002}}\nlatents: {permutation_draws: 100}\n"
    )
    assert "saes.topk.lr: 0.003 -> 0.002: train_sae" in lines
    assert "latents.permutation_draws: 99 -> 100: latents" in lines
    assert any(line.startswith("what follows from these: alignment, codes") for line in lines)


def test_a_missing_file_of_weights_makes_the_encoder_stale_after_an_edit(micro_finished):
    source = "{kind: mammo_clip, path: /nowhere/b5.tar}"
    edit = f"encoders: {{pretrained: {{kind: pretrained, source: {source}}}}}\n"
    _, lines, _ = _stale(micro_finished, edit)
    named = [line for line in lines if line.startswith("encoders.pretrained.source.path: ")]
    assert len(named) == 1
    assert "import_encoder" in named[0]
    follow = next(line for line in lines if line.startswith("what follows from these: "))
    assert "extract" in follow
    assert "train_sae" in follow


def test_a_module_is_named(micro_finished, edited):
    edited("src/mammo_sae/analysis/truth.py", "\n\n\n", "\n\n\nSOMETHING = 1\n\n\n")
    _, lines, _ = _stale(micro_finished)
    assert lines[0] == "src/mammo_sae/analysis/truth.py changed: truth"


def test_a_changed_pin_reruns_steps_that_import_the_package_and_is_named(micro_finished, edited):
    edited("envs/constraints.txt", "matplotlib==", "matplotlib==99.")
    _, lines, _ = _stale(micro_finished)
    assert lines[0].startswith("envs: matplotlib ")
    rules = {word.strip(",") for word in lines[0].split() if word.startswith(("figure", "tab"))}
    assert rules
    assert all(rule.startswith("figure_") for rule in rules)
    edited("envs/constraints.txt", "matplotlib==99.", "matplotlib==")
    edited("envs/constraints.txt", "tqdm==", "tqdm==99.")
    assert _stale(micro_finished)[1] == ["Nothing is stale."]


def test_a_missing_table_is_not_there_yet(micro_finished):
    table = micro_finished.results / "tables" / "truth.csv"
    content = table.read_bytes()
    table.unlink()
    _, lines, _ = _stale(micro_finished)
    table.write_bytes(content)
    assert lines[0] == "not there yet: table"


def test_a_wrong_key_is_one_sentence(micro_finished):
    status, _, error = _stale(micro_finished, "confunds: {alpha: 0.1}")
    assert status == 1
    assert "confunds: unknown key" in error
    assert error.count("\n") == 1
