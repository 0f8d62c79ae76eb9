"""Make the jobs of a workflow run the code and the interpreter of the workflow itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mammo_sae.errors import InputError


def share_interpreter(source: Path) -> None:
    """Make `python -m mammo_sae` in every job use this interpreter and the package in `source`.

    The digests that decide staleness are read from `source`, so this code must run, and not a
    package that is installed elsewhere. This also works if the environment is not activated.

    Raises
    ------
    InputError
        If the path of `source` contains the separator of PYTHONPATH, because Python can't use it
        then.
    """
    if os.pathsep in str(source):
        raise InputError(f"{source} holds {os.pathsep!r}; move the project to a path without it")
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
