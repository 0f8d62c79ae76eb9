"""Check that our code reads the files of other projects' code. Run all parts in sequence.

    python benchmarks/check_published.py [--peers DIR] [--mammo-sae CLONE] [PART...]

A part is a file `benchmarks/published_NAME.py` that takes `--peers`, an environment with the
libraries of requirements-sae.txt and requirements-published.txt. In this environment the part
writes files with the public code of another project. It reads them with our code and prints the
differences. It ends with status 1 if a difference is too large. To add a part, add a file with such
a name. Mammo-SAE's code is on no package index. With a clone of its repository,
`check_mammo_sae.py` and `check_mammo_sae_topk.py` are run after all parts.

The script prints the lines of each part and, at the end, the parts that failed. It ends with status
1 if one failed.
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
