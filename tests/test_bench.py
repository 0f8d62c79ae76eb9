"""`make bench` reads its figures from what the benchmark scripts print."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"

# Lines as the scripts print them.
PRINTED = {
    "conversion": """\
uncompressed  bare   101 ms  converted   120 ms  ratio 0.84  peak  310 MB
JPEG Lossless bare   201 ms  converted   220 ms  ratio 0.91  peak  311 MB
the step, 2 threads, 16 files of JPEG Lossless:  bare   4.1 s  step   4.9 s  ratio 0.83
""",
    "extraction": """\
             network / reference  1.07
                  step / network  0.985
        step / network, CPU time  0.99
""",
    "training": """\
d = 352, h = 2816, k = 16, batch 4096
plain                       10000 cells/s  x 1.00 (processor x 1.00)  explained variance 0.9
mammo-sae                   31000 cells/s  x 3.10 (processor x 3.00)  explained variance 0.9
""",
    "recovery": """\
mammo-sae topk                                 0.953  0.940-0.961
sae-lens Gated (best of 5: 0.3)                0.500  0.400-0.600
""",
    "together": "apart / together 1.80\n",
    "stores": """\
bytes       15,596 MB/s  rate over that of zarr 7.64
zarr         2,040 MB/s  rate over that of zarr 1.00
in order     2,000 MB/s  rate over that of zarr 0.98
random       1,143 MB/s  rate over that of zarr 0.56
""",
    "overhead": """\
100 jobs, 245 s, of these in jobs 232 s
seconds a job that are not the job's: 0.13
share of the run's time in jobs: 0.95
""",
    "codes": "rate of the step over that of the bare encode: 0.91 by the clock, 0.93 by\n",
    "interventions": """\
rerun:   50.1 ms per image and k; largest difference of a logit 3.1e-06
the paper's 12 k, on and off, by rerunning: 4800 s multiplied out, 1200 times the algebra's time \
for all k
""",
    "planning": '{"nothing there": {"jobs": 1, "seconds": 20.0, "CPU seconds": 18.8, "MiB": 384}, '
    '"all there": {"jobs": 0, "seconds": 9.0, "CPU seconds": 8.5, "MiB": 384}}\n',
}
VALUES = {
    "conversion": [0.84, 0.91, 0.83],
    "extraction": [1.07, 0.985, 0.99],
    "training": [1.0, 3.1],
    "recovery": [0.953, 0.5],
    "together": [1.8],
    "stores": [0.98, 0.56, 7.64],
    "overhead": [0.13, 0.95],
    "codes": [0.91],
    "interventions": [1200, 3.1e-06],
    "planning": [18.8, 8.5],
}


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", FOLDER / "bench.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", PRINTED)
def test_figures_are_read_from_what_a_script_prints(bench, part):
    rows = [row for one in bench.PARTS[part].figures for row in one.read(PRINTED[part])]
    assert [row["value"] for row in rows] == VALUES[part]


def test_names_in_the_output_become_part_of_the_figure(bench):
    (figure,) = bench.PARTS["training"].figures
    rows = list(figure.read(PRINTED["training"]))
    assert [row["what"].rpartition(", ")[2] for row in rows] == ["plain", "mammo-sae"]


def test_output_without_the_figure_is_an_error(bench):
    with pytest.raises(ValueError, match="in the output"):
        list(bench.PARTS["together"].figures[0].read("nothing\n"))


def test_every_script_of_a_part_exists(bench):
    assert all((FOLDER / part.words[0]).is_file() for part in bench.PARTS.values())


def test_growth_is_that_of_all_sizes_over_the_smallest(bench):
    measures = [
        {"step": step, "images": images, "cpu_seconds": images / 100, "mib": 300.0}
        for step in bench.GROWING
        for images in bench.SIZES
    ]
    rows = bench.growth(measures)
    assert [row["value"] for row in rows] == [4.0, 16.0, 300.0] * len(bench.GROWING)
    with pytest.raises(ValueError, match="probes: no measure with 4,000 images"):
        bench.growth(measures[:-1])


def test_figures_with_a_name_in_the_output_tell_it(bench):
    (figure,) = bench.PARTS["planning"].figures
    names = [row["what"] for row in figure.read(PRINTED["planning"])]
    assert [name.rpartition(", ")[2] for name in names] == ["nothing there", "all there"]


@pytest.mark.parametrize("failed", [True, False])
def test_figures_are_written_only_if_every_part_has_its_own(bench, monkeypatch, tmp_path, failed):
    def measured(name):
        if failed and name == "codes":
            raise RuntimeError("no figure")
        return [{"part": name, "what": "a figure", "value": 1.0, "beside": ""}]

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(bench, "OUTPUT", tmp_path / "bench.json")
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    if failed:
        with pytest.raises(SystemExit, match="without figures: codes; nothing was written"):
            bench.main()
    else:
        bench.main()
    assert bench.OUTPUT.exists() != failed
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "training"])
    bench.OUTPUT.unlink(missing_ok=True)
    bench.main()
    assert not bench.OUTPUT.exists()
