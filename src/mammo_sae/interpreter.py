"""Making the jobs of a workflow run the code and the interpreter of the workflow itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share_interpreter(source: Path) -> None:
    """Let `python -m mammo_sae`, in every job, be this interpreter and the package in `source`.

    What is installed elsewhere does not count: the digests that decide staleness are read from
    `source`, so that is the code that must run. The environment may not be activated.
    """
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
