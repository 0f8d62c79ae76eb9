"""Make each `python -m mammo_sae STEP` write its own time, processor time and peak memory.

Python imports this module at its start if its folder is on PYTHONPATH. The peak is that of the
process itself (VmHWM). The usual ru_maxrss would include the shell or Snakemake, from which the
process was forked.
"""

import atexit
import json
import os
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()


def _write(folder: Path, step: str) -> None:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    used = os.times()
    content = {
        "step": step.replace("-", "_"),
        "arguments": sys.argv[2:],
        "seconds": time.perf_counter() - BEGAN,
        "cpu_seconds": used.user + used.system + used.children_user + used.children_system,
        "mib": int(peak.split()[1]) / 1024,
    }
    (folder / f"{step}.{os.getpid()}.json").write_text(json.dumps(content), encoding="utf-8")


if "MEASURES" in os.environ and sys.orig_argv[1:3] == ["-m", "mammo_sae"]:
    atexit.register(_write, Path(os.environ["MEASURES"]), sys.orig_argv[3])
