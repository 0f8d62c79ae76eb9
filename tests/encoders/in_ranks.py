"""The command line for test_ranks.py: products in float32, and a rank that fails if asked to.

The variable RANK_1 holds a step and how rank 1 ends there: by an error or killed.
"""

from __future__ import annotations

import os
import signal

import torch

from mammo_sae.cli import main
from mammo_sae.encoders import finetune
from mammo_sae.errors import StoreError

# bfloat16 rounds the gradients of parts of a batch in another way than those of the batch.
finetune.product_type = lambda _: torch.float32
finetune.SAVE_EVERY = 0.0
step, _, end = os.environ.get("RANK_1", "").partition(" ")
advance = finetune.Training.advance


def failing(training, chosen, batch):
    if training.step == int(step):
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise StoreError("embeddings/7: chunk 3 is damaged; rebuild it")
    advance(training, chosen, batch)


if end and os.environ["RANK"] == "1":
    finetune.Training.advance = failing
main()
