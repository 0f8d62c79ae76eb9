"""Start the ranks of a step by torchrun, and end with the sentence of the rank that failed.

The options are torchrun's. After an error torchrun alone would print a traceback of its own and a
long report, and the log would not end with the sentence that says what is wrong::

    python -m mammo_sae.compute.launch --standalone --nproc-per-node 2 -m mammo_sae finetune ...
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> None:
    """Start the ranks and wait for them. Exit with 1 if one of them fails."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        run.main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        # The empty line ends the first rank's progress.
        if failure.exitcode < 0:
            what = f"rank {rank} was killed by {failure.signal_name()}; see whether its memory was "
            print(f"\nerror: {what}enough, and run again", file=sys.stderr)
        elif Path(failure.error_file).is_file():  # of any other error there is a traceback
            print(f"\nerror: {failure.message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
