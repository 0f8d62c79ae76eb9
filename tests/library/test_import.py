"""The package is imported quickly, and offers the API without importing it."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import mammo_sae
from mammo_sae import digests
from mammo_sae.digests import SOURCE, import_closure
from mammo_sae.steps import STEPS

LARGE = {
    *("torch", "transformers", "matplotlib", "snakemake", "pandas", "numpy", "scipy", "sklearn"),
    *("xarray", "zarr", "pyarrow", "PIL", "pydicom"),
}


def test_the_import_loads_no_package_of_others():
    code = "import mammo_sae, sys; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = set(done.stdout.split())
    assert "mammo_sae" in found
    assert found & {"numpy", "pandas", "torch", "matplotlib", "xarray", "pydantic"} == set()


@pytest.mark.parametrize(
    ("words", "most"), [(("-c", "import mammo_sae"), 0.5), (("-m", "mammo_sae", "--help"), 1.0)]
)
def test_the_import_and_the_help_take_little_processor_time(words, most):
    """It counts the time of the process and not that of others, so a busy machine passes too."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    taken = []
    for _ in range(3):  # the first call may compile modules
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert 0 < min(taken) < most


@pytest.mark.parametrize("words", ["--help", "run --help", "train-sae --help", "figure-latents -h"])
def test_help_loads_no_large_package(words):
    code = (
        "import atexit, sys; from mammo_sae.cli import main; sys.argv[1:] = sys.argv[1].split(); "
        "atexit.register(lambda: print(*{m.split('.')[0] for m in sys.modules})); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, words],
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = set(done.stdout.splitlines()[-1].split())
    assert {"mammo_sae", "pydantic"} <= found
    assert found & LARGE == set()


def test_the_names_of_the_api_are_found_and_listed():
    from mammo_sae.library.run import Run, open
    from mammo_sae.library.sae import Sae

    assert (mammo_sae.Run, mammo_sae.open, mammo_sae.Sae) == (Run, open, Sae)
    assert {"Run", "Sae", "open"} <= set(dir(mammo_sae))


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = mammo_sae.opne


def test_no_step_imports_the_api():
    for step in STEPS.values():
        modules = import_closure(*step.all_modules())
        assert [name for name in modules if name.startswith("mammo_sae.library")] == []


def test_the_api_leaves_the_digest_of_the_package_as_it_was_without_one():
    empty = ast.Module(body=[ast.Pass()], type_ignores=[])
    assert ast.dump(digests._tree("mammo_sae")) == ast.dump(empty)


def test_any_other_statement_of_the_package_counts(tmp_path, monkeypatch):
    text = (SOURCE / "__init__.py").read_text()
    (tmp_path / "__init__.py").write_text(f"{text}\nimport os\nos.environ['A'] = '1'\n")
    monkeypatch.setattr(digests, "SOURCE", Path(tmp_path))
    tree = digests._tree.__wrapped__("mammo_sae")
    assert [type(node).__name__ for node in tree.body] == ["Import", "Assign"]
