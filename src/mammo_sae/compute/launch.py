"""Start the ranks of a step by torchrun, and end with the sentence of the rank that failed.

The options are torchrun's. After an error torchrun alone would print a traceback of its own and a
long report, and the log would not end with the sentence that says what is wrong::

    python -m mammo_sae.compute.launch --standalone --nproc-per-node 2 -m mammo_sae finetune ...
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure


def main() -> None:
    """Start the ranks and wait for them. Exit with 1 if one of them fails."""
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        run.main()
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _order(item[1]))
        # The empty line ends the first rank's progress.
        if failure.exitcode < 0:
            what = f"rank {rank} was killed by {failure.signal_name()}; see whether its memory was "
            print(f"\nerror: {what}enough, and run again", file=sys.stderr)
        elif Path(failure.error_file).is_file():  # of any other error there is a traceback
            print(f"\nerror: {failure.message}", file=sys.stderr)
        sys.exit(1)


def _order(failure: ProcessFailure) -> tuple[int, int]:
    """Return the place of a failure: the cause comes before the failures that follow from it.

    A killed rank is the cause, and others may report that they have lost it. torchrun itself ends
    the last ranks, by SIGTERM.
    """
    if failure.exitcode == -signal.SIGTERM:
        return 2, failure.timestamp
    return int(failure.exitcode >= 0), failure.timestamp


if __name__ == "__main__":
    main()
