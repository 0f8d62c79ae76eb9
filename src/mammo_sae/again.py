"""Drop the maps of embeddings when codes exist, and make them again when a step reads them."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.errors import StoreError
from mammo_sae.provenance import SUFFIX, record_path
from mammo_sae.stores.embeddings import KIND, drop_layers
from mammo_sae.stores.images import KIND as IMAGES
from mammo_sae.stores.publish import dropped_folders, read_json


def drop_embeddings(folder: Path) -> None:
    """Delete the maps of all embeddings in `folder`.

    Pooled features stay: they are small, and probes and predictions read them.
    """
    for manifest in sorted(folder.glob("*/*/*.json")):
        if not manifest.name.endswith(SUFFIX):
            drop_layers(manifest, keep=[POOLED])


def make_again(manifests: Sequence[Path], run_step: Callable[[str, Sequence[str]], None]) -> None:
    """Extract the dropped embeddings of shards again, with the arguments in their records.

    If several steps need a shard at once, one of them makes it and the others wait.

    Parameters
    ----------
    manifests
        Manifests of the shards. Shards that are not dropped (any more) stay as they are.
    run_step
        Function that runs a step, given its name and the words of its command line.

    Raises
    ------
    StoreError
        If a shard has no record.
    """
    for manifest in manifests:
        with _alone(manifest):
            content = read_json(manifest)
            store = manifest.parent / content["store"]
            if not dropped_folders(store):
                continue
            run_step("extract", _words(manifest, store, list(content["layers"])))
            if read_json(manifest) != content:
                print(
                    f"{manifest}: the embeddings were dropped, and made again they have other "
                    "bytes (another kind of machine or device?); at the next call, everything "
                    "that reads them runs again",
                    file=sys.stderr,
                )


@contextmanager
def _alone(manifest: Path) -> Iterator[None]:
    """Wait until no other process makes the store of `manifest`."""
    lock = manifest.with_name(f".{manifest.stem}.lock")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _words(manifest: Path, store: Path, layers: Sequence[str]) -> list[str]:
    """Return the words with which the step `extract` has made a store."""
    record = record_path(manifest)
    if not record.is_file():
        raise StoreError(
            f"{record} is missing, so the dropped embeddings can't be made again; delete "
            f"{manifest} and run again"
        )
    made = read_json(record)
    words = ["--settings", made["config"], "--layers", *layers]
    words += ["--store", str(store), "--manifest", str(manifest)]
    for name in made["inputs"]:
        path = Path(name)
        if path.name == "encoder.json":
            words += ["--encoder", str(path.parent)]
        elif path.suffix == ".json" and (kind := read_json(path).get("kind")) in {IMAGES, KIND}:
            words += ["--image-store" if kind == IMAGES else "--base-embeddings", name]
    return words
