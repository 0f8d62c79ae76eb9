"""What others publish, written by their code and read by ours: every part, one after the other.

    python benchmarks/check_published.py [--peers DIR] [--mammo-sae CLONE] [PART...]

A part is a file `benchmarks/published_NAME.py` that takes `--peers`, has the public code of its
subject write files in that environment (requirements-sae.txt, requirements-published.txt), reads
them with ours, prints what differs, and ends with status 1 if it is too much. To add one, add such
a file: it is found by its name. Mammo-SAE's code is on no index: with a clone of its repository
`check_mammo_sae.py` and `check_mammo_sae_topk.py` are run after all parts.

Prints each part's lines and, last, which failed; ends with status 1 if one did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = {path.stem.removeprefix("published_"): path for path in HERE.glob("published_*.py")}


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--mammo-sae", type=Path, metavar="CLONE", help="their repository")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(sorted(PARTS))}")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(sorted(PARTS))}")
    scripts = {name: [PARTS[name]] for name in arguments.parts or sorted(PARTS)}
    if arguments.mammo_sae:
        for name in ("check_mammo_sae", "check_mammo_sae_topk"):
            scripts[name] = [HERE / f"{name}.py", arguments.mammo_sae]
    failed = []
    for name, script in scripts.items():
        print(f"== {name}", flush=True)
        command = [sys.executable, *map(str, script), "--peers", str(arguments.peers)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all parts agree")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
