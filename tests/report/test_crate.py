from __future__ import annotations

import json

import pytest
from rocrate.rocrate import ROCrate

from mammo_sae.errors import InputError
from mammo_sae.provenance import Provenance
from mammo_sae.records import write_record
from mammo_sae.report import configuration, crate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run of two steps with a store, and the remains of a third step that no result uses."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "results" / "run"
    run.mkdir(parents=True)
    root = run.relative_to(tmp_path)
    (root / "codes.zarr").mkdir()
    for name, content in (("codes.json", "{}"), ("table.csv", "a\n1\n"), ("old.csv", "b\n")):
        (root / name).write_text(content)
    about = Provenance(step="codes", config="{}", code="c0", inputs={"/elsewhere/x": "ab"})
    write_record([root / "codes.json"], about, ["numpy"])
    inputs = {"results/run/codes.json": "44136fa355b3678a"}
    about = Provenance(step="table", config='{"k":1}', code="c1", inputs=inputs)
    write_record([root / "table.csv"], about, ["pandas"])
    write_record([root / "old.csv"], about, ["pandas"])
    return root


def test_a_crate_lists_the_inputs_and_outputs_of_each_step(folder):
    output = folder / "ro-crate-metadata.json"
    crate.run(results=[folder / "table.csv"], output=output)
    read = ROCrate(folder)
    actions = {action["name"]: action for action in read.root_dataset["mentions"]}
    assert set(actions) == {"codes", "table"}
    table = actions["table"]
    assert [result.id for result in table["result"]] == ["table.csv"]
    assert "codes.json" in {thing.id for thing in table["object"]}
    assert table["instrument"]["identifier"] == "c1"
    assert [part["name"] for part in table["instrument"]["softwareRequirements"]] == ["pandas"]
    files = {entity.id for entity in read.data_entities}
    assert files == {"table.csv", "codes.json", "codes.zarr/"}
    assert read.get("table.csv")["contentSize"] == "4"


def test_a_file_outside_of_the_run_is_known_by_its_digest_alone(folder):
    output = folder / "ro-crate-metadata.json"
    crate.run(results=[folder / "table.csv"], output=output)
    assert "/elsewhere" not in output.read_text()
    assert "#sha256-ab" in output.read_text()


def test_the_same_run_gives_the_same_crate(folder):
    outputs = [folder / "ro-crate-metadata.json", folder / "again.json"]
    for output in outputs:
        crate.run(results=[folder / "table.csv"], output=output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_result_without_a_record_is_named(folder):
    (folder / "stray.csv").write_text("a\n")
    with pytest.raises(InputError, match=r"stray\.csv has no record of the step that made it"):
        crate.run(results=[folder / "stray.csv"], output=folder / "out.json")
    assert not (folder / "out.json").exists()


def test_a_result_that_is_made_again_with_its_record_is_listed(folder):
    (folder / "stray.csv").write_text("a\n")
    output = folder / "out.json"
    with pytest.raises(InputError, match=r"has no record of the step that made it; make it again$"):
        crate.run(results=[folder / "stray.csv"], output=output)
    about = Provenance(step="stray", config="{}", code="c2", inputs={})
    write_record([folder / "stray.csv"], about, ["pandas"])
    crate.run(results=[folder / "stray.csv"], output=output)
    assert "stray.csv" in output.read_text()


def test_the_configuration_is_a_page_that_shows_it_as_it_is(tmp_path):
    content = json.dumps({"concepts": {"<mass>": 1}, "name": "phantom"})
    configuration.run(content=content, output=tmp_path / "configuration.html")
    page = (tmp_path / "configuration.html").read_text()
    assert "&lt;mass&gt;: 1" in page
    assert "name: phantom" in page
