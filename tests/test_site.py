"""The documentation site is built from docs/, the README, the models and the verbs."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mammo_sae import people
from mammo_sae.arguments import read_functions
from mammo_sae.config import Config
from mammo_sae.steps import STEPS

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the built site and what its build said."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=PROJECT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(PROJECT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def page(site, name: str) -> str:
    text = re.sub(r"<[^>]*>", "", (site[0] / name / "index.html").read_text())
    return html.unescape(text)


def test_the_site_builds_without_a_warning(site):
    assert not re.search("warning|error", site[1], re.IGNORECASE), site[1]


def test_every_page_of_docs_is_on_the_site(site):
    pages = {path.stem for path in (PROJECT / "docs").glob("*.md")}
    assert len(pages) > 10
    assert pages <= {path.parent.name for path in site[0].glob("*/index.html")}


def test_the_configuration_reference_has_every_key_and_meaning(site):
    shown = " ".join(page(site, "configuration").split())
    schema = Config.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    fields = [item for model in models for item in model["properties"].items()]
    assert len(fields) > 200
    for key, field in fields:
        assert key in shown
        assert " ".join(field.get("description", "").replace("`", "").split()) in shown, key


def test_the_configuration_reference_says_which_keys_are_required(site):
    source = (site[0] / "configuration" / "index.html").read_text()
    rows = re.findall(r"<tr>\s*<td><code>source</code></td>.*?</tr>", source, re.DOTALL)
    assert any("<em>required</em>" in row for row in rows)
    assert "<td><code>384</code></td>" in source  # the phantom's height


def test_the_command_reference_has_every_verb_and_option(site):
    shown = page(site, "commands")
    functions = read_functions(people.__name__)
    functions |= {name: read_functions(step.module)["run"] for name, step in STEPS.items()}
    for name, function in functions.items():
        section = shown.partition(f"\n{name.replace('_', '-')}¶")[2]
        assert section, name
        for argument in function.arguments:
            assert argument.name.replace("_", "-") in section.replace("_", "-")


def test_links_to_files_of_the_project_lead_to_copies_on_the_site(site):
    copy = site[0] / "profiles" / "slurm" / "profile.yaml"
    assert copy.read_text() == (PROJECT / "profiles" / "slurm" / "profile.yaml").read_text()
    assert 'href="../profiles/slurm/profile.yaml"' in (site[0] / "slurm/index.html").read_text()


def test_pages_load_nothing_from_elsewhere(site):
    loaded = []
    for path in site[0].rglob("*.html"):
        loaded += re.findall(
            r'(?:src|<link[^>]*rel="stylesheet"[^>]*href)="(https?:[^"]*)', path.read_text()
        )
    assert loaded == []


def test_the_search_finds_the_verdicts(site):
    index = json.loads((site[0] / "search" / "search_index.json").read_text())
    titles = {entry["title"] for entry in index["docs"]}
    assert {"Verdicts", "Concepts and words"} <= titles
