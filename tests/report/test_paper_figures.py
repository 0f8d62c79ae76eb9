"""The figures of a run as SVG and PDF, drawn again by the command line."""

from __future__ import annotations

import re
import shutil
import zlib
from base64 import b64decode
from xml.etree import ElementTree

import pytest

from mammo_sae import cli
from mammo_sae.errors import InputError
from mammo_sae.library.figures import chosen, redraw
from mammo_sae.stores.publish import read_json, write_json

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


@pytest.fixture(scope="module")
def finished(run, whole, tmp_path_factory):
    """The folder of a run with three figures: of a table, of stores, and with a table beside it."""
    folder = tmp_path_factory.mktemp("results") / "small"
    tables = shutil.copytree(whole, folder / "tables")

    def draw(step, name, *words):
        words = [step, *words, "--output", folder / "figures" / f"{name}.png"]
        cli.run([str(word) for word in words])

    draw("figure-encoders", "encoders", "--encoders", tables / "encoders.parquet")
    inputs = [(f"--{name}", run.table(name)) for name in ("latents", "alignment", "confounds")]
    options = [word for pair in inputs for word in pair]
    options += ["--images", run.images, "--codes", run.codes, "--image-stores", *run.image_stores]
    options += ["--concept", "mass", "--split", "test", "--settings", '{"latents": 2}']
    draw("figure-latents", "latents/finetuned/head/mass", *options)
    options = ["--images", run.images, "--image-stores", *run.image_stores, "--settings", "{}"]
    options += ["--concepts", "mass", "--counts", tables / "cohort.csv"]
    draw("figure-cohort", "cohort", *options)
    return folder


@pytest.fixture
def files(finished):
    """The bytes of the run's files, which must be the same after the test."""
    before = _bytes(finished)
    yield before
    assert _bytes(finished) == before


def _bytes(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_svg_has_its_text_as_text_and_its_images_in_print_resolution(finished, files, tmp_path):
    words = ["figures", finished, "--format", "svg", "--output", tmp_path, "--only", "latents"]
    cli.run([str(word) for word in words])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        tmp_path / "latents" / "finetuned" / "head" / "mass.svg"
    ]
    root = ElementTree.parse(tmp_path / "latents" / "finetuned" / "head" / "mass.svg").getroot()
    said = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    assert "Top latents for mass · finetuned · head · SAE topk seed 0" in said
    assert {"highest activation, one image per patient", "AUROC", "positive"} <= {*said}
    links = [use.get(LINK, "") for use in root.iter(f"{SVG}use")]
    assert not [link for link in links if "DejaVu" in link], "letters are drawn as paths"
    # A picture is 1.1 inches wide: at least 300 dots per inch.
    assert max(float(image.get("width")) for image in root.iter(f"{SVG}image")) >= 1.1 * 72 - 1
    packed = [image.get(LINK) for image in root.iter(f"{SVG}image")]
    assert max(map(_columns, packed)) >= 1.1 * 300 - 5


def _columns(link):
    """Return the number of columns of a PNG in a link."""
    return int.from_bytes(b64decode(link.partition(",")[2])[16:20], "big")


def test_a_pdf_has_its_letters_as_an_embedded_font(finished, files, tmp_path):
    (path,) = redraw(finished, tmp_path, "pdf", ["encoders"])
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert b"/FontFile2" in content, "the font is not embedded"
    assert b"/Type3" not in content, "a journal refuses fonts of type 3"
    drawn = b""
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            drawn += zlib.decompress(stream)
        except zlib.error:
            drawn += stream
    # A string has two bytes per letter, and kerning cuts words into several strings.
    said = b"".join(re.findall(rb"\(((?:[^()\\]|\\.)*)\)", drawn)).replace(b"\0", b"")
    assert b"AUROC" in said, "its letters are no text"


def test_all_figures_are_drawn_and_equal_input_gives_equal_bytes(finished, files, tmp_path):
    for form in ("svg", "pdf"):
        drawn = [
            path.relative_to(tmp_path / "a") for path in redraw(finished, tmp_path / "a", form)
        ]
        assert sorted(map(str, drawn)) == [
            f"{name}.{form}" for name in ("cohort", "encoders", "latents/finetuned/head/mass")
        ]
        list(redraw(finished, tmp_path / "b", form, ["encoders"]))
        one, other = (tmp_path / folder / f"encoders.{form}" for folder in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_a_run_that_was_moved_is_drawn_from_where_it_is(finished, tmp_path):
    moved = shutil.copytree(finished, tmp_path / "elsewhere" / "small")
    table = moved / "tables" / "encoders.parquet"
    table.unlink()
    with pytest.raises(InputError, match=f"{table} is missing"):
        list(redraw(moved, tmp_path / "paper", "svg", ["encoders"]))


def test_figures_are_chosen_by_their_names_and_by_their_folders(finished):
    assert list(chosen(finished, ["encoders.png", "latents/finetuned"])) == [
        *("encoders", "latents/finetuned/head/mass")
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"form": "jpg"}, "there is no format 'jpg'; choose one of svg, pdf"),
        ({"only": ["lat"]}, "there is no figure 'lat'; there are cohort, encoders, latents"),
        ({"folder": "elsewhere"}, "elsewhere has no figures; give the folder of a finished run"),
    ],
)
def test_a_wrong_request_is_one_sentence(finished, tmp_path, given, sentence):
    given = {"form": "svg", "only": [], **given}
    folder = tmp_path / given.pop("folder") if "folder" in given else finished
    with pytest.raises(InputError, match=re.escape(sentence)):
        list(redraw(folder, tmp_path, **given))


def test_a_record_of_an_older_version_is_named(finished, tmp_path):
    old = shutil.copytree(finished, tmp_path / "small")
    record = old / "figures" / "encoders.png.provenance.json"
    content = {key: value for key, value in read_json(record).items() if key != "arguments"}
    write_json(record, {key: value for key, value in content.items() if key != "checksum"})
    with pytest.raises(InputError, match=r"encoders\.png\.provenance\.json does not say how its"):
        list(redraw(old, tmp_path / "paper", "svg", ["encoders"]))
