from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mammo_sae.digests import code_digest, import_closure
from mammo_sae.steps import STEPS

SOURCE = Path(__file__).parents[1] / "src"


def test_the_closure_contains_exactly_the_imported_modules():
    closure = import_closure("mammo_sae.stores.images")
    assert {
        "mammo_sae",
        "mammo_sae.errors",
        "mammo_sae.stores",
        "mammo_sae.stores.arrays",
        "mammo_sae.stores.images",
        "mammo_sae.stores.publish",
    } <= set(closure)
    assert "mammo_sae.stores.codes" not in closure


def test_an_unknown_module_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"mammo_sae\.nothing"):
        code_digest("mammo_sae.nothing")


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def _digest(copy, module):
    program = f"from mammo_sae.digests import code_digest; print(code_digest({module!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _edit(copy, file, old, new):
    path = copy / "mammo_sae" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_comments_docstrings_and_formatting_do_not_change_the_digest(copy):
    before = _digest(copy, "mammo_sae.passes")
    _edit(copy, "passes.py", 'SEPARATOR = "+"', "# a comment\nSEPARATOR = (\n    '+'\n)")
    _edit(copy, "passes.py", '"""Return the layers of a pass."""', '"""Say something else."""')
    assert _digest(copy, "mammo_sae.passes") == before


def test_a_change_of_code_changes_only_the_digests_of_its_importers(copy):
    modules = ["mammo_sae.stores.images", "mammo_sae.stores.codes", "mammo_sae.passes"]
    before = [_digest(copy, module) for module in modules]
    _edit(copy, "stores/codes.py", "IMAGES_PER_SHARD = 64", "IMAGES_PER_SHARD = 32")
    after = [_digest(copy, module) for module in modules]
    assert [a != b for a, b in zip(after, before, strict=True)] == [False, True, False]


def test_an_import_inside_a_function_counts(copy):
    _edit(
        copy,
        "passes.py",
        "    return name.split(SEPARATOR)",
        "    from mammo_sae.stores import codes\n    return name.split(SEPARATOR)",
    )
    before = _digest(copy, "mammo_sae.passes")
    _edit(copy, "stores/codes.py", "IMAGES_PER_SHARD = 64", "IMAGES_PER_SHARD = 32")
    assert _digest(copy, "mammo_sae.passes") != before


def test_an_import_for_types_alone_does_not_count(copy):
    before = _digest(copy, "mammo_sae.passes")
    first = "from collections.abc import"
    block = "if TYPE_CHECKING:\n    from mammo_sae.stores import codes\n\n"
    _edit(copy, "passes.py", first, f"from typing import TYPE_CHECKING\n{first}")
    _edit(copy, "passes.py", 'SEPARATOR = "+"', block + 'SEPARATOR = "+"')
    typed = _digest(copy, "mammo_sae.passes")
    assert typed != before  # the import of TYPE_CHECKING is code
    _edit(copy, "stores/codes.py", "IMAGES_PER_SHARD = 64", "IMAGES_PER_SHARD = 32")
    _edit(copy, "passes.py", "import codes", "import codes, images")
    assert _digest(copy, "mammo_sae.passes") == typed
    _edit(copy, "passes.py", "if TYPE_CHECKING:", "if True:")
    assert _digest(copy, "mammo_sae.passes") != typed


def test_a_steps_code_holds_the_modules_that_its_settings_ask_for_and_no_other():
    def variants(name: str) -> set[str]:
        parts = import_closure(*STEPS["train_sae"].modules(f'{{"variant":{{"name":"{name}"}}}}'))
        return {part.rpartition(".")[2] for part in parts if ".variants." in part}

    assert variants("topk") == {"base", "choice", "topk"}
    assert variants("matryoshka") == {"base", "choice", "topk", "batch_topk", "matryoshka"}
    assert variants("published") == {"base", "choice", "published"}
    for step in ("cohort", "splits", "images"):
        closure = import_closure(*STEPS[step].modules('{"kind":"cmmd"}'))
        assert "mammo_sae.cohorts.cmmd" in closure
        assert "mammo_sae.cohorts.vindr" not in closure
