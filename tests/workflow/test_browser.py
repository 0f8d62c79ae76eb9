"""The report in a real browser, from a file, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed"
    ),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1400,1000",
    "--virtual-time-budget=20000",
)


def test_the_report_opens_from_a_file_and_shows_its_sections(finished, tmp_path):
    report = tmp_path / "report.html"
    finished.snakemake("--report", str(report))

    def chromium(*arguments: str) -> str:
        done = subprocess.run(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments,
             report.as_uri()],
            capture_output=True, text=True, check=True, timeout=180,
        )  # fmt: skip
        return done.stdout

    page = chromium("--dump-dom")
    for section in ("Cohort and encoders", "Latents", "Interventions", "Confounders", "Tables"):
        assert section in page, section
    chromium(f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert pixels.shape == (1000, 1400)
    assert pixels.std() > 10, "the page is blank"
