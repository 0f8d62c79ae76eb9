"""Hostile pickles and thousands of broken ones are read or refused, and no code in them runs."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.weights.files import read_weights

SEED = 20
FAST, MANY = 300, int(os.environ.get("MUTATED_PICKLES", "5000"))


class Calls:
    """An object whose pickle is a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(canary: Path) -> dict[str, bytes]:
    """Return pickles that would make the file `canary` or fill the memory if they were run."""
    touch, text = f"touch {canary}", repr(str(canary))
    code = f"open({text}, 'w').close()"
    line = b"\x8c" + bytes([len(touch)]) + touch.encode()
    return {
        "os.system": pickle.dumps(Calls(os.system, touch)),
        "posix by old opcode": f"(S{touch!r}\nios\nsystem\n.".encode(),
        "object by old opcode": b"(cos\nsystem\nS" + repr(touch).encode() + b"\no.",
        "eval": pickle.dumps(Calls(eval, code)),
        "exec in a reduce": pickle.dumps(Calls(list, Calls(exec, code))),
        "a function as an argument": pickle.dumps(Calls(map, exec, [code])),
        "a result as a function": b"cbuiltins\ngetattr\n(cos\nos\nX\x06\0\0\0systemtR"
        b"(X" + struct.pack("<I", len(touch)) + touch.encode() + b"tR.",
        "a dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.sys\x93" + line + b"\x85R.",
        "new object": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + line + b"\x85\x81.",
        "new object with names": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + line + b"\x85}\x92.",
        "state": b"\x80\x04\x8c\x0acollections\x8c\x0bOrderedDict\x93)R"
        b"}\x8c\x0c__setstate__\x8c\x02os\x8c\x06system\x93sb" + line + b"b.",
        "extension": b"\x80\x02\x82\x01" + line + b"\x85R.",
        "storage by name": b"\x80\x02cos\nsystem\n" + line + b"\x85Q.",
        "module by name": pickle.dumps(Calls(__import__, "antigravity")),
        "gigabytes of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        "gigabytes of text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
        "a long number": b"\x80\x04\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
        "a frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "a far place in the memo": b"\x80\x04Nr\xff\xff\xff\xff.",
        "deep lists": b"\x80\x04" + b"]" * 60_000 + b"a" * 59_999 + b".",
        "doubled tuples": b"\x80\x04N" + b"2\x86" * 5000 + b".",
        "a key of doubled tuples": b"\x80\x04}N" + b"2\x86" * 200 + b"Ns.",
        "a set of doubled tuples": b"\x80\x04\x8f(N" + b"2\x86" * 200 + b"\x90.",
        "copies of a text": b"\x80\x04(\x8c\xff"
        + b"x" * 255
        + b"\x94"
        + b"c_codecs\nencode\nh\0\x8c\x06latin1\x86R" * 3000
        + b"l.",
        "many digits": b"I" + b"9" * 100_000 + b"\n.",
        "no value": b"\x80\x04.",
        "no mark": b"\x80\x04t.",
        "no end": b"\x80\x04N",
    }


def torch_file(path: Path, data: bytes, storage: bytes = b"\0" * 40) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", storage)


def outcome(path: Path) -> str:
    """Return the result of reading. Anything but a value or a sentence is raised."""
    try:
        read_weights(path)
    except InputError as error:
        assert str(error).count("\n") == 0
        assert str(path) in str(error)
        return "refused"
    return "read"


@pytest.mark.parametrize("attack", attacks(Path("x")))
@pytest.mark.parametrize("form", ["plain", "zip"])
def test_an_attack_does_nothing(tmp_path, attack, form):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    data = attacks(canary)[attack]
    if form == "plain":
        path.write_bytes(data)
    else:
        torch_file(path, data)
    outcome(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count"),
    [
        ((1000,), (1,), 0, 10),
        ((2, 6), (6, 1), 0, 10),
        ((10,), (1,), 1, 10),
        ((1 << 40,), (0,), 0, 10),
        ((10,), (1 << 61,), 0, 10),
        ((10,), (-1,), 9, 10),
        ((10,), (1,), -1, 10),
        ((1,) * 100, (1,) * 100, 0, 10),
        ((10,), (1,), 0, 1 << 40),
        ((10,), (1,), 0, -1),
        ((2.0,), (1,), 0, 10),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, size, stride, offset, count):
    path = tmp_path / "a.pth"

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is Path else None

    with (tmp_path / "data.pkl").open("wb") as stream:
        rebuild = torch._utils._rebuild_tensor_v2
        Pickler(stream, 2).dump({"a": Calls(rebuild, Path, offset, size, stride, False, {})})
    torch_file(path, (tmp_path / "data.pkl").read_bytes())
    assert outcome(path) == "refused"


def test_a_pickle_of_more_instructions_than_any_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mammo_sae.weights.unpickling.MOST_INSTRUCTIONS", 1000)
    (tmp_path / "a.pth").write_bytes(b"\x80\x04" + b"]0" * 2000 + b"N.")
    with pytest.raises(InputError, match="more than 1,000 instructions"):
        read_weights(tmp_path / "a.pth")


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(InputError, match="claim more bytes than the file has"):
        read_weights(path)


def mutated(kept: bytes, attack: list[bytes], generator: random.Random) -> bytes:
    """Return a pickle with bytes flipped, cut, doubled or swapped, or with an added attack."""
    data = bytearray(kept)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(data))
        kind = generator.randrange(6)
        if kind == 0:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[at] = generator.choice(b"().0123]}NRbcioQstueal\x81\x82\x85\x86\x92\x93\x94")
        elif kind == 2:
            del data[at : at + generator.randint(1, 20)]
        elif kind == 3:
            start = generator.randrange(len(data))
            data[at:at] = data[start : start + generator.randint(1, 60)]
        elif kind == 4:
            data[at:at] = generator.choice(attack)[:-1]
        else:
            data[at : at + 8] = generator.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" * 8])
        data = data or bytearray(b".")
    return bytes(data)


def try_mutated(directory: Path, count: int) -> dict[str, int]:
    """Read `count` broken files, in turn as a plain pickle, in a zip, and in the old format."""
    generator, canary = random.Random(SEED), directory / "canary"
    bombs = {"deep lists", "doubled tuples", "many digits"}
    attack = [data for name, data in attacks(canary).items() if name not in bombs]
    content = {
        "model": {"image_encoder._conv_stem.weight": torch.ones(2, 5), "b": torch.ones(3).t()},
        "predictions": np.arange(3.0),
        "auroc": np.float64(0.5),
        "config": {"model": {"name": "x", "path": Path("x")}},
    }
    path, ends = directory / "a.pth", {"read": 0, "refused": 0}
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        kept = archive.read("a/data.pkl")
    torch.save(content, path, _use_new_zipfile_serialization=False)
    legacy, plain = path.read_bytes(), pickle.dumps(content["predictions"])
    for number in range(count):
        if number % 4 == 0:
            path.write_bytes(mutated(plain, attack, generator))
        elif number % 4 == 1:
            path.write_bytes(mutated(legacy, attack, generator))
        else:
            torch_file(path, mutated(kept, attack, generator))
        ends[outcome(path)] += 1
    assert not canary.exists()
    return ends


def test_broken_pickles_are_read_or_refused_in_a_sentence(tmp_path):
    ends = try_mutated(tmp_path, FAST)
    assert ends["read"] > 0
    assert ends["refused"] > 0


@pytest.mark.soak
def test_thousands_of_broken_pickles_are_read_or_refused_in_a_sentence(tmp_path):
    assert sum(try_mutated(tmp_path, MANY).values()) == MANY
