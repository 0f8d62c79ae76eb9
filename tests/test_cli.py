from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mammo_sae.cli import _digests, _out_of_memory
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).parents[1]


def _run(*arguments, cwd=PROJECT):
    return subprocess.run(
        [sys.executable, "-m", "mammo_sae", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_a_verb_for_every_step():
    done = _run("--help")
    assert done.returncode == 0
    for step in STEPS:
        assert step.replace("_", "-") in done.stdout, step


@pytest.mark.parametrize("step", ["phantom", "extract", "train-sae", "confounds"])
def test_every_verb_explains_its_options(step):
    done = _run(step, "--help")
    assert done.returncode == 0
    assert "--settings" in done.stdout or "--sae" in done.stdout


def test_a_slice_feeds_the_step_it_was_cut_for(tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text(
        "phantom: {height: 96, width: 64, patients: {training: 1, test: 1, external: 1}}\n"
    )
    cut = _run("slice", "phantom", "part=test", "--configfile", small)
    assert cut.returncode == 0
    assert json.loads(cut.stdout)["part"] == "test"
    (tmp_path / "settings.json").write_text(cut.stdout)
    done = _run(
        *("phantom", "--settings", f"@{tmp_path / 'settings.json'}"),
        *("--archive", tmp_path / "test", "--manifest", tmp_path / "test.json"),
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "test").rglob("*.dicom"))) == 2
    checked = _run("verify", tmp_path)
    assert checked.returncode == 0
    assert "1 stores and 1 steps checked, 0 problems" in checked.stdout
    victim = next((tmp_path / "test").rglob("*.dicom"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    checked = _run("verify", tmp_path)
    assert checked.returncode == 1
    assert victim.name in checked.stdout
    assert "to rebuild: rm" in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["slice", "phantom", "part=test", "--configfile", "no.yaml"], "no.yaml is missing"),
        (["slice", "nothing"], "'nothing' is not a step"),
        (["slice", "train_sae"], "needs sae: give sae=topk"),
        (["slice", "train_sae", "sae=l1", "layer=head", "seed=0"], "sae=l1 is none of the"),
        (["slice", "train_sae", "mine.yaml"], "'mine.yaml' is no wildcard"),
        (["verify", "tests"], "tests holds no results"),
    ],
)
def test_a_wrong_input_is_one_sentence_and_exit_status_1(arguments, sentence):
    done = _run(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_settings_of_a_step_are_named():
    done = _run("truth", "--settings", '{"sed":1}', "--run", "a", "head", "b", "0",
                "--images", "x", "--codes", "x", "--latents", "x", "--confounds", "x",
                "--output", "x")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: settings of truth: sed: unknown key; remove it or correct its spelling"
        "; did you mean 'seed'?\n"
    )


def test_the_digests_of_a_models_folder_are_those_of_its_description_and_weights(tmp_path):
    for kind in ("encoder", "head", "sae"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{kind}.json").write_text(kind)
        (tmp_path / kind / f"{kind}.safetensors").write_text(f"weights of {kind}")
    (tmp_path / "head" / "predictions.parquet").write_text("not an input")
    (tmp_path / "images.parquet").write_text("table")
    given = [tmp_path / "encoder", tmp_path / "head", tmp_path / "sae" / "sae.json"]
    found = _digests([*given, tmp_path / "images.parquet", tmp_path / "none"])
    expected = {
        tmp_path / kind / f"{kind}.{suffix}": text
        for kind in ("encoder", "head", "sae")
        for suffix, text in (("json", kind), ("safetensors", f"weights of {kind}"))
    } | {tmp_path / "images.parquet": "table"}
    assert found == {
        os.path.relpath(path): hashlib.sha256(text.encode()).hexdigest()
        for path, text in expected.items()
    }


@pytest.mark.parametrize(
    ("verb", "advice"),
    [("train-sae", "buffer"), ("finetune", "accumulate"), ("sae-quality", "run it on a GPU with")],
)
def test_too_little_memory_is_one_sentence_with_what_to_do(verb, advice):
    import torch

    said = _out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried ..."), verb)
    assert "the GPU's memory is not enough" in said
    assert advice in said
    assert "mem_mb" in _out_of_memory(MemoryError(), verb)
    assert _out_of_memory(RuntimeError("another"), verb) is None
