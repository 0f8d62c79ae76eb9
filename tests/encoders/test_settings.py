from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from mammo_sae.encoders.settings import EncoderSettings, FinetunedSettings, PretrainedSettings

encoder = TypeAdapter(EncoderSettings)


def test_an_encoder_of_each_source_has_the_right_architecture():
    for source, architecture in (
        ({"kind": "lite0"}, "efficientnet-lite0"),
        ({"kind": "mammo_clip", "path": "b5.tar"}, "efficientnet-b5"),
        ({"kind": "random", "architecture": "efficientnet-b2"}, "efficientnet-b2"),
    ):
        settings = encoder.validate_python({"kind": "pretrained", "source": source})
        assert settings.architecture == architecture


def test_a_recipe_without_a_kind_is_the_fast_one():
    def recipe(**content):
        return FinetunedSettings.model_validate(
            {"kind": "finetuned", "base": "pretrained", "recipe": content}
        ).recipe

    assert (recipe(epochs=2).kind, recipe(epochs=2).lr) == ("fast", 3e-4)
    assert (recipe(kind="mammo_clip", epochs=2).epochs, recipe(kind="mammo_clip").lr) == (2, 5e-5)
    with pytest.raises(ValidationError, match="slow"):
        recipe(kind="slow")


def test_settings_come_back_from_their_own_json():
    settings = FinetunedSettings(kind="finetuned", base="pretrained", freeze="blocks.4")
    assert encoder.validate_json(settings.model_dump_json()) == settings


def test_settings_are_imported_without_torch():
    code = "import sys, mammo_sae.encoders.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_list_of_json_is_taken_for_a_tuple_of_a_source():
    text = '{"source": {"kind": "mammo_clip", "path": "a.pth", "classifier": ["mass"]}}'
    assert PretrainedSettings.model_validate_json(text).source.classifier == ("mass",)
