"""Ranks: processes that share the work of one step, started by torchrun (`compute.launch`)."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mammo_sae.errors import InputError

# Most seconds in which the rank that failed first writes its message. When it ends, torchrun ends
# the others, which wait.
LAST_WORDS = 30.0
# Parts of the messages of gloo and NCCL when another rank has ended.
LOST = ("closed by peer", "Connection reset", "Broken pipe", "remote process", "onnection lost")


@dataclass(frozen=True)
class Ranks:
    """The ranks of this step, seen from one of them. By default this process is the only one.

    Attributes
    ----------
    number
        Number of this rank, from 0.
    count
        Number of ranks.
    """

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the results, the log and the checkpoint."""
        return self.number == 0

    def share(self, length: int) -> slice:
        """Return this rank's part of `length` items. Parts follow each other; some may be empty."""
        return slice(self.number * length // self.count, (self.number + 1) * length // self.count)

    def total(self, part: Tensor) -> Tensor:
        """Return the sum of the ranks' tensors `part`, which have one shape: equal on all ranks."""
        if self.count > 1:
            distributed.all_reduce(part)
        return part

    def from_first(self, value: Any) -> Any:
        """Return the `value` that the first rank gives, on every rank."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def shared(self, model: nn.Module) -> nn.Module:
        """Return `model` so that backward passes average its gradients over the ranks."""
        if self.count == 1:
            return model
        # Gradients of depthwise weights have strides of their own, which costs a small copy.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        return DistributedDataParallel(model)

    @contextmanager
    def adding_gradients(self, model: nn.Module, *, now: bool) -> Iterator[None]:
        """Run a backward pass of a shared `model`; average the gradients over the ranks if `now`.

        If not, the gradients stay on their rank and are averaged by a later pass.
        """
        if now or not isinstance(model, DistributedDataParallel):
            yield
        else:
            with model.no_sync():
                yield


def current_ranks() -> Ranks:
    """Return the ranks that have joined, or this process alone."""
    if not distributed.is_initialized():
        return Ranks()
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that torchrun has started, for the time of the block.

    Each rank has its own GPU, or an equal part of the threads. If ranks fail, only the first of
    them raises its error. The others end without a message.

    Raises
    ------
    InputError
        If there are fewer GPUs than ranks on this machine, or if another rank was killed.
    """
    store, number, count = next(rendezvous("env://"))
    try:
        distributed.init_process_group(_backend(), store=store, rank=number, world_size=count)
        yield current_ranks()
        distributed.destroy_process_group()
    except BaseException as error:
        if store.compare_set("failed", "", str(number)) != str(number).encode():
            time.sleep(LAST_WORDS)  # torchrun would end the first of them before its message
            os._exit(1)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in LOST):
            raise InputError(
                f"rank {number} lost the connection to another rank, which was killed; see "
                "whether its memory was enough, and run again"
            ) from None
        raise


def _backend() -> str:
    """Give this rank its GPU or its threads. Return the name of the ranks' connection."""
    place, beside = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // beside))
        return "gloo"
    if torch.cuda.device_count() < beside:
        raise InputError(
            f"{beside} ranks on one machine need a GPU each, but there are "
            f"{torch.cuda.device_count()}; start fewer ranks"
        )
    torch.cuda.set_device(place)
    return "nccl"
