"""Damaged and hostile SAE files give an SAE or a sentence. No code in them runs."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections import Counter
from pathlib import Path

import foreign
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae.formats.published import read_published
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.settings import PublishedVariant

VALUES = (None, True, -1, 0, 2.5, 1e300, float("nan"), "topk", "", [], [1], {}, {"k": []})


@pytest.fixture
def originals(tmp_path: Path) -> dict[str, foreign.Foreign]:
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "hook_name": "x"}
    return {
        "saelens": foreign.saelens(tmp_path / "saelens", "topk", old),
        "gated": foreign.saelens(tmp_path / "gated", "gated", {"architecture": "gated"}),
        "dictionary_learning": foreign.dictionary_learning(tmp_path / "dl", "AutoEncoderTopK"),
        "overcomplete": foreign.overcomplete(tmp_path / "oc" / "sae.pt", "JumpSAE"),
    }


def outcome(found: foreign.Foreign) -> str:
    settings = PublishedVariant(path=str(found.path), sha256=found.digest, k=found.k)
    try:
        sae = read_published(settings)
    except InputError as error:
        message = str(error)
        assert len(message) < 1000
        assert "\n" not in message
        return "refused"
    assert isinstance(sae, SparseAutoencoder)
    norms = sae.decoder_weight.norm(dim=1)
    assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all()
    return "read"


def damaged(content: bytes, draw: random.Random) -> bytes:
    kind = draw.randrange(4)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    if kind == 1:  # bits, most of them where the structure is
        for _ in range(draw.randint(1, 4)):
            span = len(changed) if draw.random() < 0.3 else min(1500, len(changed))
            changed[draw.randrange(span)] ^= 1 << draw.randrange(8)
    elif kind == 2:
        at = draw.randrange(len(changed))
        changed[at : at + draw.randint(1, 40)] = draw.randbytes(draw.randint(0, 40))
    else:
        at, start = draw.randrange(len(changed)), draw.randrange(len(changed))
        changed[at:at] = changed[start : start + 64]
    return bytes(changed)


def other_values(config: object, draw: random.Random) -> object:
    """A JSON object with one value, at any depth, replaced or left out."""
    changed = json.loads(json.dumps(config))
    place = changed
    while True:
        key = draw.choice(sorted(place))
        if isinstance(place[key], dict) and place[key] and draw.random() < 0.7:
            place = place[key]
            continue
        if draw.random() < 0.3:
            del place[key]
        else:
            place[key] = draw.choice(VALUES)
        return changed


def mutate(originals: dict[str, foreign.Foreign], count: int, seed: int) -> Counter[str]:
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        found = originals[draw.choice(sorted(originals))]
        configs = sorted(found.path.glob("*.json")) if found.path.is_dir() else []
        target = draw.choice([found.weights, *configs])
        before = target.read_bytes()
        if target in configs and draw.random() < 0.6:
            target.write_text(json.dumps(other_values(json.loads(before), draw)))
        else:
            target.write_bytes(damaged(before, draw))
        try:
            outcomes[outcome(found)] += 1
        except Exception as error:
            raise AssertionError(f"{target.name}: {target.read_bytes()[:200]!r}") from error
        finally:
            target.write_bytes(before)
    return outcomes


def test_damaged_files_are_refused_with_a_sentence(originals):
    assert all(outcome(found) == "read" for found in originals.values())
    outcomes = mutate(originals, 250, seed=1)
    assert outcomes["refused"] > 100


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 7))
def test_thousands_of_damaged_files_are_refused_with_a_sentence(originals, seed):
    assert mutate(originals, 2000, seed)["refused"] > 800


TERABYTES = b'{"W_enc":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000000000]}}'
CLAIMS = {
    "header of 8 GB": struct.pack("<Q", 8 << 30),
    "header beyond 2^63": struct.pack("<Q", 2**63),
    "tensor of 4 TB": struct.pack("<Q", len(TERABYTES)) + TERABYTES,
    "no header": struct.pack("<Q", 0),
    "no tensor": struct.pack("<Q", 2) + b"{}",
    "no JSON": struct.pack("<Q", 8) + b"{" * 8,
}


@pytest.mark.parametrize("header", CLAIMS.values(), ids=CLAIMS)
def test_claims_of_gigabytes_are_refused(originals, header):
    originals["saelens"].weights.write_bytes(header)
    assert outcome(originals["saelens"]) == "refused"


class Hostile:
    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self):
        return (exec, (f"open({self._canary!r}, 'w').close()",))


@pytest.mark.parametrize("place", ["object", "tensor", "key", "extra"])
def test_a_hostile_pickle_does_nothing(originals, tmp_path, place):
    canary = tmp_path / "canary"
    found = originals["dictionary_learning"]
    state = torch.load(found.weights, weights_only=True)
    evil = Hostile(canary)
    content = {
        "object": evil, "tensor": state | {"encoder.weight": evil},
        "key": {evil: 1, **state}, "extra": state | {"notes": evil},
    }[place]  # fmt: skip
    torch.save(content, found.weights)
    # An object beside the weights is an inert placeholder, which no weight depends on.
    assert outcome(found) == ("read" if place == "extra" else "refused")
    found.weights.write_bytes(pickle.dumps(content, protocol=4))
    outcome(found)
    assert not canary.exists()
