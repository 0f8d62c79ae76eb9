"""Puts the files of the workflow into a built package, so that a wheel has the whole workflow.

All other settings are in pyproject.toml. In a checkout, and in an editable installation of it, the
workflow is that of the checkout.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARTS = ("Snakefile", "workflow", "config", "envs", "profiles")
ROOT = Path(__file__).parent


class WithWorkflow(build_py):
    """Copies the files of the workflow into `mammo_sae/workflow_files`."""

    def run(self) -> None:
        """Build the package, then copy the workflow."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "mammo_sae" / "workflow_files"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, target / part)
            else:
                shutil.copy(source, target / part)


setup(cmdclass={"build_py": WithWorkflow})
