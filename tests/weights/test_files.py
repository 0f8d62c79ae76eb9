from __future__ import annotations

import collections
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mammo_sae.errors import InputError
from mammo_sae.weights.files import read_weights
from mammo_sae.weights.unpickling import Foreign

TENSORS = {
    "matrix": torch.arange(12.0).reshape(3, 4),
    "view": torch.arange(12.0).reshape(3, 4)[1:, 1:].t(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "whole": torch.arange(5),
    "truth": torch.tensor([True, False]),
}
OTHERS = {
    "auroc": np.float64(0.85),
    "count": np.int16(3),
    "predictions": np.arange(3.0),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "names": np.array(["mass", "cyst"]),
}


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_form_of_torch_gives_the_same_values(tmp_path, protocol, legacy):
    path = tmp_path / "a.pt"
    content = {"model": collections.OrderedDict(TENSORS), **OTHERS, "odd": pathlib.Path("x")}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    found = read_weights(path)
    assert found["model"].keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(found["model"][name], value), name
        assert found["model"][name].dtype == value.dtype
    for name, value in OTHERS.items():
        assert np.array_equal(found[name], value), name
    assert isinstance(found["odd"], Foreign)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_values_are_read_under_the_names_of_numpy_1_and_2(tmp_path, core):
    path = tmp_path / "old.pth"
    torch.save({"auroc": np.float64(0.85), "predictions": np.arange(3.0)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data.replace(b"numpy._core.", f"numpy.{core}.".encode()))
    state = read_weights(path)
    assert state["auroc"] == 0.85
    assert state["predictions"].tolist() == [0, 1, 2]


def test_a_zip_file_written_again_by_another_program_is_read(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    found = read_weights(path)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=r"is compressed, which torch\.save never does"):
        read_weights(path)


def test_a_tensor_is_a_view_of_the_file_and_changing_it_leaves_the_file(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    before = path.read_bytes()
    read_weights(path)["a"].add_(1)
    assert path.read_bytes() == before


def test_safetensors_are_read(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "a.bin")
    assert torch.equal(read_weights(tmp_path / "a.bin")["a"], torch.ones(3))


def test_a_plain_pickle_of_arrays_is_read(tmp_path):
    (tmp_path / "a.p").write_bytes(pickle.dumps({"a": np.arange(3)}))
    assert read_weights(tmp_path / "a.p")["a"].tolist() == [0, 1, 2]


def test_a_flipped_bit_in_the_weights_is_damage(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.full((1000,), 7.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((1000,), 7.0).numpy().tobytes()) + 100] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match="data/0 does not match its checksum"):
        read_weights(path)


def test_a_file_without_checksums_is_read(tmp_path):
    path = tmp_path / "a.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_weights(path)["a"], torch.ones(3))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused_with_its_name(tmp_path, form, share):
    path = tmp_path / "weights.pth"
    if form == "safetensors":
        save_file({"a": torch.zeros(1000)}, path)
    else:
        torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"weights\.pth is damaged, or no file of weights"):
        read_weights(path)


@pytest.mark.parametrize(
    "data", [b"", b"<", b"<!DOCTYPE html>", b"PK\x03\x04", b"version https://git-lfs", b"\0" * 99]
)
def test_a_file_of_no_weights_is_refused_with_its_name(tmp_path, data):
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(InputError, match=r"weights\.pth is damaged, or no file of weights"):
        read_weights(tmp_path / "weights.pth")
    with pytest.raises(InputError, match="is a folder; give the file"):
        read_weights(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_weights(tmp_path / "nothing")


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_damaged_file_that_is_saved_again_as_advised_is_read(tmp_path, save):
    path = tmp_path / "weights.pth"
    save({"a": torch.arange(9.0)}, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"save the weights with torch\.save or safetensors"):
        read_weights(path)
    save({"a": torch.arange(9.0)}, path)
    assert torch.equal(read_weights(path)["a"], torch.arange(9.0))


def test_weights_at_the_path_that_is_corrected_as_advised_are_read(tmp_path):
    torch.save({"a": torch.arange(9.0)}, tmp_path / "a.pt")
    for wrong, said in (
        (tmp_path / "b.pt", "does not exist; correct its path$"),
        (tmp_path, "is a folder; give the file of the weights$"),
    ):
        with pytest.raises(InputError, match=said):
            read_weights(wrong)
    assert torch.equal(read_weights(tmp_path / "a.pt")["a"], torch.arange(9.0))


def test_a_big_endian_file_that_is_saved_on_a_little_endian_machine_is_read(tmp_path):
    path, whole = tmp_path / "big.pt", tmp_path / "little.pt"
    torch.save({"a": torch.arange(9.0)}, whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as big:
        for name in archive.namelist():
            content = archive.read(name)
            big.writestr(name, b"big" if name.endswith("byteorder") else content)
    with pytest.raises(InputError, match="is big-endian; save it on a little-endian machine"):
        read_weights(path)
    assert torch.equal(read_weights(whole)["a"], torch.arange(9.0))


def test_protocol_0_is_refused_and_the_way_out_leads_out(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(3)}, path, pickle_protocol=0)
    with pytest.raises(InputError, match="use protocol 2"):
        read_weights(path)
    torch.save({"a": torch.ones(3)}, path, pickle_protocol=2)
    read_weights(path)


def test_nothing_that_a_file_names_is_imported(tmp_path):
    (tmp_path / "elsewhere.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('canary').touch()\n"
        "class Thing:\n    pass\n"
    )
    write = "import torch, elsewhere; torch.save({'a': elsewhere.Thing()}, 'a.pt')"
    subprocess.run([sys.executable, "-c", write], cwd=tmp_path, check=True)
    (tmp_path / "canary").unlink()
    read = (
        f"import pathlib, sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from mammo_sae.weights.files import read_weights;"
        f"print(read_weights(pathlib.Path({str(tmp_path)!r}) / 'a.pt'));"
        "sys.exit('elsewhere' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", read], check=True, text=True, stdout=subprocess.PIPE
    )
    assert done.stdout == "{'a': <elsewhere.Thing>}\n"
    assert not (tmp_path / "canary").exists()
