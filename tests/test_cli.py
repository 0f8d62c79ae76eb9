from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.arguments import parser_of, read_functions
from mammo_sae.cli import missing_column, out_of_memory, refused_by_system
from mammo_sae.records import input_digests
from mammo_sae.steps import STEPS
from mammo_sae.stores.tables import read_table, write_table

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


@pytest.mark.parametrize("step", STEPS)
def test_every_option_of_a_step_is_an_argument_of_its_run_and_is_explained(step):
    function = read_functions(STEPS[step].module)["run"]
    assert function.summary.endswith((".", "split", "row per")), function.summary
    assert [argument.name for argument in function.arguments if not argument.help] == []
    called = signature(import_module(STEPS[step].module).run)
    given = called.parameters.keys() - {"made_by"}
    assert given == {argument.name for argument in function.arguments}
    assert ("settings" in given) == (STEPS[step].settings is not None)
    listed = parser_of(step, function, places=False).format_help()
    assert all(f"--{name.replace('_', '-')}" in listed for name in given)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_returns_the_files_that_it_writes(step):
    assert signature(import_module(STEPS[step].module).run).return_annotation == "list[Path]"


def test_an_option_means_one_thing_in_every_step():
    kinds: dict[str, set[str]] = {}
    for step in STEPS.values():
        for argument in read_functions(step.module)["run"].arguments:
            kind = argument.kind.rpartition(".")[2]
            kinds.setdefault(argument.name, set()).add(kind)
    several = {name for name, found in kinds.items() if len(found) > 1}
    # Each step has its own settings. Codes and confounds are compared between seeds.
    assert several == {"settings", "codes", "confounds"}


@pytest.mark.parametrize("words", [["--help"], ["train-sae", "--help"], ["train-sae", "--sed"]])
def test_help_and_errors_about_options_do_not_load_the_packages_of_steps(words):
    program = (
        "import sys; from mammo_sae import cli; sys.argv[1:] = sys.argv[2:]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'yaml'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trainsae"], "'trainsae' is not a verb; did you mean 'train-sae'?"),
        (["latents", "--imags", "x"], "there is no option --imags; did you mean '--images'?"),
        (["latents", "--images", "x"], "required: --settings, --identity, --codes, --concepts"),
        (["layers", "pretrained", "--configfiles", "x"], "no option --configfiles; did you"),
        (["figure-truth", "--truth", "a", "--output"], "--output: expected one argument"),
        (["summary", "--encoders", "a", "--bases", "one"], "'one' is not NAME=VALUE"),
        (["images", "--shard", "two"], "--shard: invalid int value: 'two'"),
    ],
)
def test_wrong_words_are_one_sentence_and_exit_status_2(words, sentence):
    done = _run(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_list_may_be_given_in_one_part_or_in_several():
    parser = parser_of("x", read_functions("mammo_sae.people")["stale"], places=True)
    one = parser.parse_args(["--configfile", "a.yaml", "b.yaml"])
    several = parser.parse_args(["--configfile", "a.yaml", "--configfile", "b.yaml"])
    assert one == several
    assert several.configfile == [Path("a.yaml"), Path("b.yaml")]


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
        (["slice", "train_sae"], "needs sae: give sae=channels, pca, topk or untrained"),
        (["slice", "train_sae", "sae=l1", "layer=head", "seed=0"], "sae=l1 is not in the config"),
        (["slice", "train_sae", "mine.yaml"], "'mine.yaml' is no wildcard"),
        (["verify", "tests"], "tests holds no results"),
        (["slice", "phantom", "part=test", "foo=1"], "foo is not a wildcard of any step; leave it"),
        (["slice", "train_sae", "sed=0"], "sed is not a wildcard of any step; leave it out; did"),
        (["slice", "phantom", "part=test", "part=external"], "a wildcard is given twice; leave"),
    ],
)
def test_a_wrong_input_is_one_sentence_and_exit_status_1(arguments, sentence):
    done = _run(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_step_is_sliced_by_the_name_of_its_verb_too():
    words = ["layer=head", "sae=topk", "seed=0"]
    by_verb, by_name = (_run("slice", name, *words) for name in ("train-sae", "train_sae"))
    assert by_verb.returncode == 0
    assert by_verb.stdout == by_name.stdout


def test_a_phantom_that_was_not_made_yet_is_made_by_the_workflow(tmp_path):
    done = _run("find", "0123456789abcdef", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: cohort folder {Path('results/phantom/source/training')} is missing; "
        "run the workflow, which makes it\n"
    )


@pytest.fixture
def tables(tmp_path):
    latents = {"latent": [0], "concept": ["mass"], "rank_auroc": [1]}
    write_table(pd.DataFrame(latents), tmp_path / "latents.parquet")
    confounds = pd.DataFrame(columns=["latent", "concept", "confounder", "verdict"])
    write_table(confounds, tmp_path / "confounds.parquet")
    confounds.to_csv(tmp_path / "confounds.csv", index=False)
    return tmp_path


def _figure(tables, latents="latents.parquet", confounds="confounds.parquet", output="a.png"):
    options = ["--concept", "mass", "--min-kept", "0.5", "--output", tables / output]
    options += ["--latents", tables / latents, "--confounds", tables / confounds]
    return _run("figure-confounds", *options)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"latents": "confounds.parquet"}, "confounds.parquet lacks the column 'rank_auroc'; give"),
        ({"latents": "confounds.csv"}, "confounds.parquet lacks the column 'rank_auroc'; give"),
        ({"output": ""}, ": figures are PNG, SVG or PDF files; give a name that ends in .png"),
        ({"output": "a.jpg"}, "a.jpg: figures are PNG, SVG or PDF files; give a name that ends"),
        ({"output": "folder.png"}, "folder.png: Is a directory; give the path of a file"),
        ({"output": "latents.parquet/a.png"}, "latents.parquet: File exists; give a path whose"),
    ],
)
def test_a_wrong_table_or_output_is_one_sentence(tables, given, sentence):
    (tables / "folder.png").mkdir()
    before = {path.name for path in tables.iterdir()}
    assert _figure(tables).returncode == 0
    done = _figure(tables, **given)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    left = {path.name for path in tables.iterdir()} - before
    assert left == {"a.png", "a.png.provenance.json"}


def test_a_missing_key_that_is_no_column_keeps_its_traceback(tables):
    words = ["--latents", str(tables / "latents.parquet")]
    with pytest.raises(KeyError) as error:
        {}["rank_auroc"]
    assert missing_column(error.value, words) is None
    with pytest.raises(KeyError) as error:
        read_table(tables / "latents.parquet").set_index("latent").loc[5]
    assert missing_column(error.value, words) is None


def test_wrong_settings_of_a_step_are_named():
    done = _run("responses", "--settings", '{"sed":1}', "--identity", "a", "head", "b", "0",
                "--pairs", "x", "--codes", "x", "--latents", "x", "--confounds", "x",
                "--output", "x")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: settings of responses: sed: unknown key; remove it or correct its spelling"
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
    arguments = {"given": given, "images": tmp_path / "images.parquet", "none": tmp_path / "none"}
    found = input_digests({**arguments, "concepts": ["mass"], "seed": 0})
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
def test_too_little_memory_gives_one_sentence_with_advice(verb, advice):
    import torch

    said = out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried ..."), verb)
    assert "the GPU's memory is not enough" in said
    assert advice in said
    assert "mem_mb" in out_of_memory(MemoryError(), verb)
    assert out_of_memory(RuntimeError("another"), verb) is None


def test_a_full_disk_is_named_by_errors_of_python_and_of_the_writer_in_rust():
    python = OSError(errno.ENOSPC, "No space left on device", "results/a.zarr")
    advice = "No space left on device; make room and run again"
    assert refused_by_system(python) == f"results/a.zarr: {advice}"
    assert refused_by_system(RuntimeError("No space left on device (os error 28)")) == advice
    assert refused_by_system(RuntimeError("Connection reset (os error 104)")) is None
    assert refused_by_system(RuntimeError("another")) is None
