"""The report's first page, rendered in the same way as by Snakemake."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment

PAGE = Path(__file__).parents[2] / "workflow" / "report" / "workflow.rst"


@pytest.mark.parametrize("seen", [[], ["pretrained", "finetuned"]])
@pytest.mark.parametrize("kind", ["phantom", "vindr"])
def test_the_first_page_always_has_the_main_results(seen, kind, tmp_path):
    figures = tmp_path / "summary.html"
    figures.write_text("<p>How well the encoders predict</p>")
    text = Environment(trim_blocks=True, lstrip_blocks=True).from_string(PAGE.read_text())
    described = text.render(
        snakemake=SimpleNamespace(config={"cohort": {"kind": kind}, "seen": seen}),
        files=[SimpleNamespace(target="summary.html", path=str(figures))],
    )
    page = publish_parts(
        described, writer="html", settings_overrides={"halt_level": 2, "report_level": 2}
    )["body"]
    assert "<p>How well the encoders predict</p>" in page
    assert ("pretrained, finetuned were trained on images of this data set" in page) == bool(seen)
    assert ("What the phantom shows" in page) == (kind == "phantom")
