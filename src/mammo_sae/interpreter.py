"""Making the jobs of a workflow run the code and the interpreter of the workflow itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mammo_sae.errors import InputError


def share_interpreter(source: Path) -> None:
    """Let `python -m mammo_sae`, in every job, be this interpreter and the package in `source`.

    What is installed elsewhere does not count: the digests that decide staleness are read from
    `source`, so that is the code that must run. The environment may not be activated.

    Raises
    ------
    InputError
        If Python can't be told of `source`, since its path holds the separator of such paths.
    """
    if os.pathsep in str(source):
        raise InputError(f"{source} holds {os.pathsep!r}; move the project to a path without it")
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
