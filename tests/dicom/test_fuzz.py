"""Small parts of the fuzz runs, and headers with arbitrary values.

`python tests/dicom/fuzz.py` and `python tests/dicom/metamorphic.py` run all cases.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from mammo_sae.dicom.header import READ

SCRIPT = Path(__file__).with_name("fuzz.py")
METAMORPHIC = Path(__file__).with_name("metamorphic.py")
SPECIFICATION = importlib.util.spec_from_file_location("fuzz", SCRIPT)
fuzz = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(fuzz)

WORDS = st.sampled_from(
    ("MONOCHROME1", "MONOCHROME2", "RGB", "SIGMOID", "LINEAR_EXACT", "CUBIC", "INVERSE", "MG", "L")
)
NUMBERS = st.one_of(
    st.integers(-70_000, 70_000).map(str),
    st.floats(width=32).map(str),
    st.sampled_from(("", "-0", "1e308", "1e-308", "nan", "inf", "1,5", "0x10", "9" * 17)),
)
TEXTS = st.one_of(WORDS, NUMBERS, st.text(st.characters(codec="ascii"), max_size=16))
WHOLE = st.one_of(st.integers(0, 65535), st.sampled_from((0, 1, 7, 8, 15, 16, 17, 65535)))


def values(keyword: str) -> st.SearchStrategy:
    """Values that an element with this keyword can be written with, right or wrong."""
    representation = dictionary_VR(keyword)
    one = WHOLE if representation.startswith("US") else TEXTS
    return st.one_of(one, st.lists(one, min_size=2, max_size=4))


ELEMENTS = [word for word in READ if dictionary_VR(word) != "SQ" and word != "PixelData"]
HEADERS = st.dictionaries(st.sampled_from(ELEMENTS), st.none(), min_size=1, max_size=4).flatmap(
    lambda chosen: st.fixed_dictionaries({keyword: values(keyword) for keyword in chosen})
)
TABLES = st.tuples(
    st.sampled_from(("VOILUTSequence", "ModalityLUTSequence")),
    st.lists(st.integers(0, 65535), min_size=0, max_size=4),
    st.binary(max_size=600),
)


def convert(path: Path, elements: dict[str, object], tables: list[tuple]) -> str:
    dataset = fuzz.dicom(uid.ExplicitVRLittleEndian, 12, fuzz.picture(12).tobytes())
    for keyword, value in elements.items():
        tag, representation = Tag(keyword), dictionary_VR(keyword)[:2]
        many = value if isinstance(value, list) else [value]
        if representation == "US":
            content = struct.pack(f"<{len(many)}H", *many)
        else:
            content = "\\".join(many).encode("ascii")
            content += b" " * (len(content) % 2)
        # Values are bytes, because pydicom has no value for an invalid number.
        dataset[tag] = RawDataElement(tag, representation, len(content), content, 0, False, True)
    for keyword, descriptor, content in tables:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", descriptor)
        item.add_new("LUTData", "OW", content)
        setattr(dataset, keyword, [item])
    path.write_bytes(fuzz.written(dataset))
    return fuzz.outcome(path)


@pytest.fixture
def unvalidated(monkeypatch):
    """Make pydicom write values that it normally refuses."""
    for mode in ("writing_validation_mode", "reading_validation_mode"):
        monkeypatch.setattr(pydicom.config.settings, mode, pydicom.config.IGNORE)


@pytest.mark.filterwarnings("ignore")
def test_any_header_values_convert_or_are_refused(tmp_path_factory, unvalidated):
    path = tmp_path_factory.mktemp("headers") / "a.dcm"
    found = set()

    @given(elements=HEADERS, tables=st.lists(TABLES, max_size=1))
    @settings(max_examples=400, deadline=None, derandomize=True)
    def check(elements, tables):
        found.add(convert(path, elements, tables))

    check()
    assert {"converted", "header", "bits"} <= found


def report_of(script: Path, *, first: int, count: int) -> dict:
    """Run these cases of a script. Return its report."""
    done = subprocess.run(
        [sys.executable, str(script), "--first", str(first), "--count", str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert done.returncode == 0
    assert sum(report["counts"].values()) == count
    assert report["peak_mb"] < 500
    return report


def test_damaged_files_convert_or_are_refused_within_bounded_memory():
    report = report_of(SCRIPT, first=0, count=300)
    assert report["counts"]["converted"] > 30


def test_an_encoding_does_not_change_a_picture_and_the_formulas_give_its_values():
    counts = report_of(METAMORPHIC, first=0, count=150)["counts"]
    assert counts["the same"] == 50
    assert counts["as meant"] > 40
    assert counts["noticed as it must be"] + counts["refused as it must be"] == 50


@pytest.mark.soak
@pytest.mark.parametrize(
    ("script", "count"), [(SCRIPT, 10_000), (METAMORPHIC, 20_000)], ids=["damaged", "metamorphic"]
)
def test_many_more_files(script, count):
    report_of(script, first=10_000, count=count)
