"""A dataset, an SAE variant and an encoder source that another package adds by entry points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from documented import blocks

SOURCE = Path(__file__).parents[1] / "src"
FILES = {
    "elsewhere/__init__.py": '"""What a laboratory adds."""\n',
    "elsewhere/settings.py": '''"""Settings of what is added."""

from typing import ClassVar, Literal

from pydantic import Field

from mammo_sae.cohorts.settings import CmmdCohort
from mammo_sae.sae.settings import AuxKVariant
from mammo_sae.settings import Settings


class WardCohort(CmmdCohort):
    """The ward's own images, in CMMD's form."""

    MODULE: ClassVar[str] = "elsewhere.ward"
    kind: Literal["ward"] = Field("ward", description="the ward's folder")


class ZerosSource(Settings):
    """Weights that are all zero."""

    MODULE: ClassVar[str] = "elsewhere.zeros"
    kind: Literal["zeros"]
    of: tuple[str, ...] = Field(description="who asks")
    architecture: str = "efficientnet-lite0"


class HalvedVariant(AuxKVariant):
    """TopK with half as many active latents."""

    MODULE: ClassVar[str] = "elsewhere.halved"
    name: Literal["halved"] = Field("halved", description="sparsity rule")
''',
    "elsewhere/ward.py": '''"""Reads the ward's folder."""

from elsewhere.names import PATTERN
from mammo_sae.cohorts.cmmd import CmmdReader


class WardReader(CmmdReader):
    """The ward's folder."""

    pattern = PATTERN


READER = WardReader
''',
    "elsewhere/names.py": 'PATTERN = "scans/*.dcm"\n',
    "elsewhere/halved.py": '''"""TopK with half as many active latents."""

from mammo_sae.sae.variants.topk import TopK


class Halved(TopK):
    """TopK with half as many active latents."""

    def select(self, u):
        """Return index and value of half of the active latents."""
        return self.candidates(u, max(1, self.settings.k // 2))


VARIANT = Halved
''',
    "elsewhere/zeros.py": '''"""Weights that are all zero."""

from mammo_sae.encoders.description import IMAGENET, EncoderDescription
from mammo_sae.encoders.network import build


def read(source):
    """Return the weights and what is known of them."""
    details = EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source=f"zeros of {' and '.join(source.of)}",
        licence="none needed",
        data="none",
    )
    state = build(details).state_dict()
    return {name: tensor * 0 for name, tensor in state.items()}, details
''',
    "elsewhere-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n",
    "elsewhere-1.0.dist-info/entry_points.txt": """[mammo_sae.cohorts]
ward = elsewhere.settings:WardCohort

[mammo_sae.encoders]
zeros = elsewhere.settings:ZerosSource

[mammo_sae.variants]
halved = elsewhere.settings:HalvedVariant
""",
}


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder in which the package `elsewhere` is installed."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(program: str, *sites: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that can import this project and the packages installed in `sites`."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, *sites)))},
        capture_output=True,
        text=True,
        check=False,
    )


def answer(program: str, *sites: Path):
    done = run(program, *sites)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SETTINGS = """
import json
from pydantic import TypeAdapter
from mammo_sae.cohorts.readers import reader_class
from mammo_sae.cohorts.settings import CohortSettings
from mammo_sae.sae.settings import SaeTraining
cohort = TypeAdapter(CohortSettings).validate_python({"kind": "ward", "source": "w"})
sae = SaeTraining(variant={"name": "halved", "k": 6}, latents=32)
print(json.dumps([
    type(cohort).__name__, cohort.test_share, reader_class(cohort.kind).pattern,
    type(sae.variant).__name__, sae.variant.k,
]))
"""


def test_additions_of_another_package_are_configured_like_those_of_this_package(site):
    assert answer(SETTINGS, site) == ["WardCohort", 0.2, "scans/*.dcm", "HalvedVariant", 6]


def test_the_documented_entry_points_are_those_of_the_package():
    (block,) = blocks("toml")
    parser = ConfigParser()
    parser.read_string(FILES["elsewhere-1.0.dist-info/entry_points.txt"])
    ours = {group: dict(parser[group]) for group in parser.sections()}
    assert tomllib.loads(block.text)["project"]["entry-points"] == ours


def test_without_the_package_its_names_are_unknown():
    done = run(SETTINGS)
    assert done.returncode != 0
    assert "'ward'" in done.stderr


CONFIGURED = """
import json
from mammo_sae.config import load_config
from mammo_sae.errors import InputError
thin = {"variant": {"name": "halved", "k": 4}, "layers": {"head": {"variant": {"k": 6}}}}
run = {"layers": ["head"], "cohort": {"kind": "ward", "source": "w"}, "saes": {"thin": thin}}
config = load_config(run, "mine")
sae = config.slice("train_sae", {"layer": "head", "sae": "thin", "seed": "0"})
run["cohort"]["shard"] = 3
try:
    load_config(run, "mine")
except InputError as error:
    print(json.dumps([config.slice("images", {}), sae, str(error)]))
"""


def test_steps_receive_the_settings_of_additions(site):
    images, sae, wrong = answer(CONFIGURED, site)
    assert json.loads(images)["kind"] == "ward"
    assert json.loads(sae)["variant"] == {
        "name": "halved",
        "k": 6,
        "k_aux": 128,
        "aux_weight": 1.0,
    }
    assert wrong.startswith("mine: cohort.shard: unknown key")


TRAINED = """
import json, torch
from mammo_sae.sae.settings import SaeTraining
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.choice import training_sae
settings = SaeTraining(variant={"name": "halved", "k": 6}, latents=32)
cells = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
_, value = training_sae(settings, Start(cells, 1.0, torch.float32)).select(cells)
print(json.dumps(list(value.shape)))
"""


def test_a_variant_of_another_package_is_trained(site):
    assert answer(TRAINED, site) == [64, 3]


IMPORTED = """
import json
from pathlib import Path
from mammo_sae.config import load_config
from mammo_sae.encoders import import_encoder
from mammo_sae.encoders.settings import PretrainedSettings
encoder = {"kind": "pretrained", "source": {"kind": "zeros", "of": ["us", "them"]}}
config = load_config({"layers": ["head"], "encoders": {"e": encoder}}, "mine")
settings = PretrainedSettings.model_validate_json(config.slice("import_encoder", {"encoder": "e"}))
weights, description = Path("w.safetensors"), Path("w.json")
import_encoder.run(settings, weights=weights, description=description)
print(description.read_text())
"""


def test_weights_of_another_package_are_imported(site, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert answer(IMPORTED, site)["source"] == "zeros of us and them"


CODE = """
import json
from importlib.util import find_spec
from mammo_sae.steps import STEPS
plain = {name: step.code({}, '{"kind":"vindr","variant":{"name":"topk"},"source":{"kind":"lite0"}}')
         for name, step in STEPS.items()}
added = []
if find_spec("elsewhere"):
    added = [json.loads(STEPS["images"].code({}, '{"kind":"ward"}')),
             json.loads(STEPS["train_sae"].code({}, '{"variant":{"name":"halved"}}')),
             json.loads(STEPS["import_encoder"].code({}, '{"source":{"kind":"zeros"}}'))]
print(json.dumps([plain, added]))
"""


def test_the_digest_of_an_addition_covers_its_package_and_changes_no_other_result(site):
    plain, (images, sae, encoder) = answer(CODE, site)
    assert {part for part in images if part.startswith("elsewhere")} == {
        "elsewhere",
        "elsewhere.names",
        "elsewhere.ward",
    }
    assert "mammo_sae.cohorts.cmmd" in images
    assert "mammo_sae.cohorts.vindr" not in images
    assert {part for part in sae if part.startswith("elsewhere")} == {
        "elsewhere",
        "elsewhere.halved",
    }
    assert {part for part in encoder if part.startswith("elsewhere")} == {
        "elsewhere",
        "elsewhere.zeros",
    }
    assert "mammo_sae.encoders.sources.lite0" not in encoder
    (site / "elsewhere" / "names.py").write_text('PATTERN = "pictures/*.dcm"\n')
    again, (other, *same) = answer(CODE, site)
    assert again == plain
    assert {part for part in images if images[part] != other[part]} == {"elsewhere.names"}
    assert same == [sae, encoder]
    program = CODE.replace('(("images",', '() and (("images",')
    assert answer(program)[0] == plain


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("settings:WardCohort", "settings:Ward", "can't be imported"),
        ("settings:WardCohort", "ward:WardReader", "must be a subclass of mammo_sae.settings"),
        ("ward = ", "boxes = ", "the settings must have a key of Literal['boxes']"),
    ],
)
def test_a_wrong_entry_point_is_named(site, old, new, message):
    path = site / "elsewhere-1.0.dist-info" / "entry_points.txt"
    text = path.read_text()
    path.write_text(text.replace(old, new))
    assert message in run(SETTINGS, site).stderr.splitlines()[-1]
    # When it is repaired, as the message says, the addition is there.
    path.write_text(text)
    assert answer(SETTINGS, site)[0] == "WardCohort"


def test_an_addition_that_is_corrected_as_advised_is_there(site):
    settings = site / "elsewhere" / "settings.py"
    text = settings.read_text()
    settings.write_text(text.replace("MODULE: ClassVar[str] = ", "PLACE: ClassVar[str] = ", 1))
    said = run(SETTINGS, site).stderr.splitlines()[-1]
    assert "must have MODULE, the name of the module that does the work" in said
    settings.write_text(text)
    assert answer(SETTINGS, site)[0] == "WardCohort"
    other = site / "other-1.0.dist-info"
    shutil.copytree(site / "elsewhere-1.0.dist-info", other)
    metadata = (other / "METADATA").read_text().replace("elsewhere", "other")
    (other / "METADATA").write_text(metadata)
    said = run(SETTINGS, site).stderr.splitlines()[-1]
    assert "ward" in said
    assert "another package has the same name; remove one of them" in said
    shutil.rmtree(other)
    assert answer(SETTINGS, site)[0] == "WardCohort"
