"""The advice of the command line works when it is followed."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from mammo_sae import cli, people
from mammo_sae.arguments import UsageError, parse, parser_of, read_functions
from mammo_sae.config import read_config
from mammo_sae.encoders.settings import FastRecipe
from mammo_sae.errors import InputError
from mammo_sae.interpreter import share_interpreter
from mammo_sae.sae.settings import SaeTraining
from mammo_sae.steps import STEPS
from mammo_sae.stores.publish import verify_store

SMALL = {"height": 96, "width": 64, "patients": 1, "part": "test"}


def refusal(words: list[str], kind: type[Exception]) -> str:
    with pytest.raises(kind) as refused:
        cli.run(words)
    return str(refused.value)


# Wrong words, their message, and the right words. $ is what the message suggests.
WORDS = {
    "a misspelt verb": (
        "layrs pretrained",
        r"'layrs' is not a verb; did you mean '([\w-]+)'",
        "$ pretrained",
    ),
    "a misspelt option": (
        "layers pretrained --configfiles own.yaml",
        r"there is no option --configfiles; did you mean '(--\w+)'",
        "layers pretrained $ own.yaml",
    ),
    "an encoder that is none": (
        "layers tuned",
        r"there is no encoder 'tuned'; choose one of (\w+)",
        "layers $",
    ),
    "a file that is no wildcard": (
        "slice phantom part=test own.yaml",
        "'own.yaml' is no wildcard; give each as name=value, and files after (--configfile)",
        "slice phantom part=test $ own.yaml",
    ),
    "a wildcard twice": (
        "slice phantom part=test part=external",
        "part=test part=external: a wildcard is given twice; leave one out",
        "slice phantom part=test",
    ),
    "a wildcard that is missing": (
        "slice phantom",
        "needs part: give (part=training), ",
        "slice phantom $",
    ),
    "a configuration that is missing": (
        "slice phantom part=test --configfile nowhere.yaml",
        "nowhere.yaml is missing; give the path of a YAML file",
        "slice phantom part=test --configfile own.yaml",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_that_are_corrected_as_advised_are_run(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("name: own")
    wrong, said, right = WORDS[case]
    message = refusal(wrong.split(), (UsageError, InputError))
    found = re.search(said, message)
    assert found, message
    cli.run(right.replace("$", "".join(found.groups())).split())
    printed = capsys.readouterr().out
    assert "blocks.15" in printed if right.startswith(("layers", "$")) else json.loads(printed)


def test_the_help_that_a_message_names_lists_verbs_or_options(capsys):
    for words, listed in ((["x"], "train-sae"), (["verify", "--nothing"], "folder")):
        message = refusal(words, UsageError)
        command = re.search(r"; python -m mammo_sae (.*--help) lists", message)
        assert command, message
        try:
            cli.run(shlex.split(command[1]))
        except SystemExit as done:
            assert done.code == 0
        assert listed in capsys.readouterr().out


def test_every_step_that_the_message_names_has_settings(tmp_path, capsys):
    own = tmp_path / "own.yaml"
    text = "text: {kind: table, path: phrases.parquet, encoder: pretrained, vocabulary: words.csv}"
    own.write_text(f"report: {{published: {{sae: topk}}}}\n{text}\n")
    message = refusal(["slice", "nothing"], InputError)
    names = message.partition("; choose one of ")[2].split(", ")
    assert set(names) == {name for name, step in STEPS.items() if step.settings is not None}
    config = read_config([own])
    for name in names:
        wildcards = {w: values[0] for w, values in config._wildcards(name).items()}
        pairs = [f"{key}={value}" for key, value in wildcards.items()]
        people.slice(name, pairs, configfile=[own])
        assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize(
    ("step", "option", "wrong", "said", "right", "expected"),
    [
        ("summary", "--bases", "one", "'one' is not NAME=VALUE; give it in that form",
         "one=two", [("one", "two")]),
        ("train_sae", "--beside", "a/sae.json", "'a/sae.json' is not PATH=JSON; give it in that",
         'a/sae.json={"seed":1}', [("a/sae.json", '{"seed":1}')]),
        ("images", "--shard", "two", "invalid int value: 'two'", "2", 2),
    ],
)  # fmt: skip
def test_an_option_in_the_form_that_the_message_gives_is_taken(
    step, option, wrong, said, right, expected
):
    function = read_functions(STEPS[step].module)["run"]
    parser = parser_of("x", function, places=False)
    words: list[str] = []
    for argument in function.arguments:
        if argument.required and f"--{argument.name}" != option:
            count = 4 if argument.kind.endswith("Identity") else 1
            values = ["1"] if argument.kind in {"int", "float"} else ["x"] * count
            pairs = "Mapping" in argument.kind
            words += [f"--{argument.name.replace('_', '-')}", *(["a=b"] if pairs else values)]
    with pytest.raises(UsageError, match=re.escape(said)):
        parse(parser, [*words, option, wrong])
    assert parse(parser, [*words, option, right])[option.strip("-")] == expected


def test_a_seed_that_is_a_whole_number_as_advised_is_part_of_the_identity():
    function = read_functions(STEPS["responses"].module)["run"]
    argument = next(one for one in function.arguments if one.name == "identity")
    given = ["pretrained", "head", "topk"]
    with pytest.raises(
        UsageError, match=r"--identity: seed 'zero' is not a whole number; give one"
    ):
        cli._value("responses", argument, [*given, "zero"])
    assert cli._value("responses", argument, [*given, "0"]).seed == 0


def test_settings_from_a_file_that_is_there_make_the_phantom(tmp_path):
    words = ["phantom", "--archive", str(tmp_path / "a"), "--manifest", str(tmp_path / "a.json")]
    message = refusal([*words, "--settings", f"@{tmp_path}/no.json"], InputError)
    assert re.search(r"no\.json can't be read .*; give @ and a JSON file$", message), message
    (tmp_path / "own.json").write_text(json.dumps(SMALL))
    cli.run([*words, "--settings", f"@{tmp_path}/own.json"])
    assert verify_store(tmp_path / "a.json") == []


@pytest.mark.parametrize(
    ("place", "said"),
    [("a" * 300, "give a shorter path"), ("file/a", "give a path whose folders are folders")],
)
def test_results_are_written_to_a_path_that_is_corrected_as_advised(
    tmp_path, monkeypatch, capsys, place, said
):
    (tmp_path / "file").write_text("")

    def words(path: str) -> list[str]:
        where = tmp_path / path
        options = ["--archive", str(where), "--manifest", str(tmp_path / "a.json")]
        return ["phantom", *options, "--settings", json.dumps(SMALL)]

    monkeypatch.setattr(sys, "argv", ["mammo_sae", *words(place)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 1
    assert capsys.readouterr().err.endswith(f"; {said}\n")
    cli.run(words("folder/a"))
    assert verify_store(tmp_path / "a.json") == []


def test_a_key_of_settings_that_is_corrected_as_advised_is_used(tmp_path):
    words = ["phantom", "--archive", str(tmp_path / "a"), "--manifest", str(tmp_path / "a.json")]
    wrong = {**SMALL, "hight": 96}
    del wrong["height"]
    message = refusal([*words, "--settings", json.dumps(wrong)], InputError)
    key = re.search(r"hight: unknown key; .* did you mean '(\w+)'", message)
    wrong[key[1]] = wrong.pop("hight")
    cli.run([*words, "--settings", json.dumps(wrong)])
    assert len(list((tmp_path / "a").rglob("*.dicom"))) == 2


def test_the_folder_of_a_run_is_verified_as_advised(tmp_path, capsys):
    message = refusal(["verify", str(tmp_path)], InputError)
    assert message.endswith("holds no results; give the folder of a run")
    made = tmp_path / "run"
    words = ["--archive", str(made / "a"), "--manifest", str(made / "a.json")]
    cli.run(["phantom", *words, "--settings", json.dumps(SMALL)])
    cli.run(["verify", str(made)])
    assert "1 stores and 1 steps checked, 0 problems" in capsys.readouterr().out


def test_keys_that_need_less_memory_as_advised_are_accepted():
    said = cli.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"), "train-sae")
    keys = re.search("lower the SAE's `(\\w+)` or `(\\w+)`", said).groups()
    default = SaeTraining()
    for key in keys:
        lower = SaeTraining(**{key: getattr(default, key) // 2})
        assert getattr(lower, key) < getattr(default, key)
    said = cli.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"), "finetune")
    half, double = re.search("halve the recipe's `(\\w+)` and double its `(\\w+)`", said).groups()
    recipe = FastRecipe()
    less = FastRecipe(**{half: getattr(recipe, half) // 2, double: 2 * getattr(recipe, double)})
    assert less.batch_size * less.accumulate == recipe.batch_size * recipe.accumulate


def test_a_project_that_is_moved_as_advised_shares_its_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setenv("PATH", "programs")
    with pytest.raises(InputError, match=r"holds ':'; move the project to a path without it$"):
        share_interpreter(tmp_path / "a:b" / "src")
    share_interpreter(tmp_path / "ab" / "src")
    assert os.environ["PYTHONPATH"] == f"{tmp_path}/ab/src:before"
