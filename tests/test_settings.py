from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import Field

from mammo_sae.errors import InputError
from mammo_sae.settings import PathText, Settings, canonical_json, parse_settings


class Inner(Settings):
    lr: float = Field(1e-3, gt=0)
    steps: int = 10


class Outer(Settings):
    sae: Inner = Inner()
    layers: list[str] = Field(["head"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"sae":{"lrr":1}}', "sae.lrr: unknown key"),
        ('{"sae":{"lr":"1e-4"}}', "sae.lr: .*got '1e-4'; YAML reads it as text, write 1.0e-4"),
        ('{"sae":{"steps":1.5}}', "sae.steps: must be a whole number, got 1.5"),
        ('{"sae":{"lr":0}}', "sae.lr: must be more than 0(.0)?, got 0"),
        ('{"layers":"head"}', "layers: must be a list, got 'head'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        parse_settings(Outer, text, "config.yaml")
    assert str(error.value).startswith("config.yaml: ")
    assert "\n" not in str(error.value)


def test_the_same_settings_give_the_same_text_for_any_order_and_notation():
    one = parse_settings(Outer, '{"sae":{"lr":1,"steps":5},"layers":["a"]}', "x")
    two = parse_settings(Outer, '{"layers":["a"],"sae":{"steps":5,"lr":1.0}}', "x")
    assert canonical_json(one) == canonical_json(two)
    assert canonical_json(Outer()) == '{"layers":["head"],"sae":{"lr":0.001,"steps":10}}'


def test_settings_can_t_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Inner().lr = 2.0


class Place(Settings):
    folder: PathText


@pytest.mark.parametrize(
    "text",
    ["mein Ordner/röntgen (1)", "it's", "a;b & c|d", "#1", "a=b,c", "~", "~/x", "100 %", "*"],
)
def test_a_path_of_ordinary_characters_is_taken_and_a_home_folder_written_out(text):
    place = parse_settings(Place, json.dumps({"folder": text}), "x")
    assert place.folder == text.replace("~", str(Path.home()), 1)
    assert parse_settings(Place, canonical_json(place), "x") == place


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a{b}", "'{'"),
        ("a$HOME", r"'\$'"),
        ('"a"', "folder: .*'\"'"),
        ("a`b`", "'`'"),
        ("a\\b", "character"),
        ("a\nb", "character"),
        (" a", "begins with"),
        ("a ", "begins with"),
        ("-a", "begins with"),
        ("~nobody-of-that-name/x", "home folder that is not known"),
    ],
)
def test_a_path_that_no_command_can_carry_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        parse_settings(Place, json.dumps({"folder": text}), "config.yaml")
    assert str(error.value).startswith("config.yaml: folder: ")
    assert "\n" not in str(error.value)
