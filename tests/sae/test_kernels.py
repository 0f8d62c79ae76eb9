"""Triton kernels against plain torch: on a GPU, in Triton's interpreter, and through its compiler.

The interpreter is chosen when Triton is imported, and then affects every product of the process. It
therefore has its own process, which runs this file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mammo_sae.sae import settings as s
from mammo_sae.sae import sparse
from mammo_sae.sae.trainer import Training
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.choice import training_sae

kernels = pytest.importorskip("mammo_sae.sae.kernels", reason="Triton has no wheel for this system")

CPU = torch.device("cpu")
GPU = pytest.param(
    torch.device("cuda"),
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    ],
)
on_device = pytest.mark.parametrize("device", [CPU if sparse.INTERPRETED else GPU], ids=["device"])
compiled = pytest.mark.skipif(sparse.INTERPRETED, reason="the interpreter compiles nothing")
close = torch.testing.assert_close

# Cells, channels, latents, slots.
SIZES = [(5, 12, 7, 7), (1, 1, 1, 1), (6, 112, 40, 3), (4, 192, 70, 16), (3, 1280, 33, 2)]
TYPES = [torch.float32, torch.bfloat16]
HALF = {torch.float32: {}, torch.bfloat16: {"rtol": 1e-5, "atol": 1e-4}}


def codes(n: int, h: int, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return index and value [n, k]. Some values are 0, like those of unused slots."""
    random = torch.Generator().manual_seed(n + h + k)
    index = torch.rand(n, h, generator=random).topk(k).indices.sort(dim=1).values
    value = torch.randn(n, k, generator=random)
    return index.to(device), (value * (value > -1)).to(device)


def matrix(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    random = torch.Generator().manual_seed(rows + 7 * columns)
    return torch.randn(rows, columns, generator=random).to(device, dtype)


def dense(index: torch.Tensor, value: torch.Tensor, h: int) -> torch.Tensor:
    """Return codes as [n, h] float64."""
    return value.new_zeros(len(index), h).double().scatter_add_(1, index, value.double())


@compiled
@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests run on the GPU itself")
def test_the_kernels_hold_in_tritons_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "not gpu", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


WITHOUT = """
import sys
sys.modules["triton"] = None
import torch
from mammo_sae.sae import sparse
index, value = torch.tensor([[0, 2]]), torch.tensor([[1.0, 2.0]])
print(sparse.combine(index, value, torch.eye(3)).tolist())
print(sparse.ByLatent.of(index, 3).sum(value, torch.ones(1, 1)).tolist())
print(sparse.largest(torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist())
"""


@compiled
def test_without_triton_torch_does_the_work():
    # Like a GPU, the interpreter uses the kernels.
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["[[1.0, 0.0, 2.0]]", "[[1.0], [0.0], [2.0]]", "[[1, 2]]"]


@on_device
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("h", "k"), [(7, 7), (1, 1), (9, 1), (33, 32), (256, 5), (601, 16), (2816, 16), (300, 64)]
)
def test_the_largest_entries_are_those_of_a_full_sort(h, k, dtype, device):
    rows = matrix(3, h, dtype, device)
    rows[1] = rows[1].round()  # ties
    rows[2] = -rows[2].abs()
    rows[2, h // 2] = 1  # all but one inactive
    index = kernels.largest(rows, k)
    assert (index.diff(dim=1) > 0).all()
    assert index.min() >= 0
    assert index.max() < h
    # Entries of 0 and below are all the same.
    expected = rows.float().sort(dim=1, descending=True).values[:, :k].clamp(min=0)
    found = rows.float().gather(1, index).sort(dim=1, descending=True).values.clamp(min=0)
    close(found, expected, rtol=0, atol=0)


@on_device
def test_latents_beyond_16_bits_are_found(device):
    rows = torch.zeros(1, 70_000, dtype=torch.bfloat16, device=device)
    rows[0, [3, 66_000, 69_999]] = 1.0
    assert kernels.largest(rows, 3).tolist() == [[3, 66_000, 69_999]]


@on_device
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("m", "k"), [(1, 1), (7, 7), (7, 3), (40, 25), (600, 512)])
def test_all_but_the_largest_become_zero(m, k, dtype, device):
    rows = matrix(4, m, dtype, device).clamp_(min=0)
    rows[1] = rows[1].round()  # ties
    rows[2] = 1
    before = rows.clone()
    kernels.only_largest_(rows, k)
    assert ((rows == 0) | (rows == before)).all()
    expected = before.float().sort(dim=1, descending=True).values[:, :k].sum(dim=1)
    close(rows.float().sum(dim=1), expected)
    assert (rows[2].nonzero().squeeze(1) < k).all()
    assert (rows > 0).sum(dim=1).max() <= k


@on_device
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "d", "h", "k"), SIZES)
def test_products_with_codes_equal_dense_ones(n, d, h, k, dtype, device):
    index, value = codes(n, h, k, device)
    x, weight = matrix(n, d, dtype, device), matrix(h, d, dtype, device)
    whole = x.double() @ weight.double().t()
    close(kernels.dots(x, weight, index), whole.gather(1, index).float(), **HALF[dtype])
    decoded = dense(index, value, h) @ weight.double()
    close(kernels.combine(index, value, weight), decoded.float(), **HALF[dtype])
    bias, target = matrix(1, d, torch.float32, device)[0], matrix(n, d, torch.float32, device)
    close(
        kernels.residual(index, value, weight, bias, target),
        (decoded + bias - target).float(),
        rtol=1e-5, atol=1e-4,
    )  # fmt: skip


@on_device
def test_rows_need_not_lie_one_after_the_other(device):
    index, value = codes(4, 9, 3, device)
    x, weight = matrix(4, 32, torch.bfloat16, device), matrix(9, 32, torch.bfloat16, device)
    close(
        kernels.dots(x[:, :12], weight[:, :12], index),
        kernels.dots(x[:, :12].contiguous(), weight[:, :12].contiguous(), index),
        rtol=0, atol=0,
    )  # fmt: skip
    by_latent = sparse.ByLatent.of(index, 9)
    close(
        by_latent.sum(value, x[:, :12]),
        by_latent.sum(value, x[:, :12].contiguous()),
        rtol=0, atol=0,
    )  # fmt: skip


@on_device
def test_a_row_that_is_named_by_a_slot_not_in_use_is_not_read(device):
    index = torch.tensor([[0, 2], [0, 0]], device=device)
    value = torch.tensor([[0.0, 2.0], [0.0, 0.0]], device=device)
    weight = torch.full((3, 4), torch.nan, device=device)
    weight[2] = 1.0
    assert kernels.combine(index, value, weight).tolist() == [[2.0] * 4, [0.0] * 4]


def uneven(n: int, h: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes of two slots: latent 3 is in every cell, latent h - 1 in all but a few."""
    index = torch.full((n, 2), h - 1)
    index[:, 0] = 3
    index[: n // 8, 1] = torch.arange(n // 8) % (h - 5) + 4
    return index.to(device), matrix(n, 2, torch.float32, device)


@on_device
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "d", "h", "k"), SIZES)
def test_sums_by_latent_equal_dense_ones(n, d, h, k, dtype, device):
    index, value = codes(n, h, k, device)
    x = matrix(n, d, dtype, device)
    by_latent, whole = sparse.ByLatent.of(index, h), dense(index, value, h)
    close(by_latent.sum(value, x), (whole.t() @ x.double()).float(), **HALF[dtype])
    close(by_latent.total(value), whole.sum(dim=0).float())


@on_device
@pytest.mark.parametrize("n", [64, 127, 128, 129, 256, 700])
def test_latents_with_many_slots_are_summed_in_pieces_and_unused_latents_are_zero(n, device):
    h = 20
    index, value = uneven(n, h, device)
    x = matrix(n, 5, torch.float32, device)
    by_latent, whole = sparse.ByLatent.of(index, h), dense(index, value, h)
    summed = by_latent.sum(value, x)
    close(summed, (whole.t() @ x.double()).float(), rtol=1e-5, atol=1e-4)
    close(by_latent.total(value), whole.sum(dim=0).float(), rtol=1e-5, atol=1e-4)
    assert (summed[:3] == 0).all()


@on_device
def test_sums_take_slots_that_are_not_in_use(device):
    index = torch.zeros(300, 4, dtype=torch.int64, device=device)  # all of latent 0
    index[:, 0] = 2
    value = torch.zeros(300, 4, device=device)
    value[:, 0] = 1.0
    summed = sparse.ByLatent.of(index, 3).sum(value, torch.ones(300, 2, device=device))
    assert summed.tolist() == [[0.0, 0.0], [0.0, 0.0], [300.0, 300.0]]


@on_device
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "h"), [(1, 1), (17, 40), (130, 129), (300, 7)])
def test_a_relu_and_its_gradient_are_those_of_plain_torch(n, h, dtype, device):
    before = matrix(n, h, dtype, device)
    before[0, 0] = 0
    codes, plain = before.clone(), before.clamp(min=0)
    summed, active, fired = kernels.rectify_(codes)
    close(codes, plain, rtol=0, atol=0)
    close(summed, plain.double().sum().float())
    assert int(active) == int((plain > 0).sum())
    assert fired.tolist() == (plain > 0).any(dim=0).tolist()
    gradient = matrix(n, h + 1, dtype, device)[:, :h].contiguous()
    expected = gradient.add(0.25).mul(plain > 0)
    summed = kernels.through_(gradient, codes, 0.25)
    # The interpreter truncates to bfloat16, but a GPU rounds.
    close(gradient, expected, rtol=0 if dtype == torch.float32 else 2**-7, atol=0)
    close(summed, gradient.double().sum(dim=0).float())


@on_device
def test_not_a_number_stays_not_a_number(device):
    summed, _, _ = kernels.rectify_(torch.tensor([[1.0, torch.nan]], device=device))
    assert torch.isnan(summed)


@on_device
@pytest.mark.parametrize("d", [1, 12, 112, 1280])
def test_atoms_and_their_gradient_keep_to_the_sphere(d, device):
    atoms, gradient = matrix(6, d, torch.float32, device), matrix(6, d + 1, torch.float32, device)
    gradient = gradient[:, :d].contiguous()
    unit = atoms / torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
    kernels.unit_(atoms)
    close(atoms, unit)
    expected = gradient - unit * (gradient * unit).sum(dim=1, keepdim=True)
    kernels.tangent_(gradient, atoms)
    close(gradient, expected, rtol=1e-5, atol=1e-5)


VARIANTS = {
    "topk": s.TopKVariant(k=3, k_aux=4),
    "matryoshka": s.MatryoshkaVariant(k=2, k_aux=0, groups=[1, 3]),
    "l1": s.L1Variant(l1=0.01, resample_every=0.5),
}


STEPS, BATCH = 4, 4


def losses(variant, device: torch.device, dtype: torch.dtype) -> list[float]:
    """Train for a few steps on fixed cells; return the loss of each."""
    settings = s.SaeTraining(
        variant=variant, latents=24, lr=1e-2, steps=STEPS, batch=BATCH, dead_after=0.4
    )
    cells = matrix(STEPS * BATCH, 12, torch.float32, CPU)
    start = Start(cells.to(device), scale=1.0, dtype=dtype)
    training = Training(settings, training_sae(settings, start))
    for batch in cells.split(BATCH):
        training.advance(batch.to(device))
    return [row["loss"] for row in training.log]


@on_device
@pytest.mark.parametrize("name", VARIANTS)
def test_training_with_kernels_goes_as_without(name, device, monkeypatch):
    ours = losses(VARIANTS[name], device, torch.float32)
    rounded = losses(VARIANTS[name], device, torch.bfloat16)
    monkeypatch.setattr(sparse, "_kernels", lambda x: None)
    plain = losses(VARIANTS[name], CPU, torch.float32)
    assert len(plain) == STEPS
    assert ours == pytest.approx(plain, rel=1e-4)
    assert rounded == pytest.approx(plain, rel=5e-2)


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("name", VARIANTS)
def test_training_on_a_gpu_gives_the_same_bytes_again(name, device):
    one, two = (losses(VARIANTS[name], device, torch.bfloat16) for _ in range(2))
    assert one == two


@pytest.fixture
def launches(monkeypatch, tmp_path):
    """Return a list that collects every launch as (kernel, arguments) instead of running it."""
    from triton.runtime.jit import JITFunction

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = []

    def run(kernel, *arguments, grid, warmup, **options):
        found.append((kernel, dict(zip(kernel.arg_names, arguments, strict=False)) | options))

    monkeypatch.setattr(JITFunction, "run", run)
    return found


def compile_for(capability: int, kernel, arguments: dict[str, object]) -> str:
    """Compile a launch as Triton would on a GPU of that capability; return its assembly."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    types = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64",
             torch.int32: "*i32", torch.int16: "*i16"}  # fmt: skip
    signature, constants, aligned = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = types[value.dtype]
            aligned[(position,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        # Triton also treats an integer of 1 as a constant.
        elif parameter.is_constexpr or value is None or value == 1:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": arguments.get("num_warps", 4)}
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]


@compiled
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("d", "h", "k", "dtype"),
    [(2048, 16_384, 32, torch.bfloat16), (112, 896, 16, torch.float32)],
    ids=["large", "small"],
)
def test_every_kernel_compiles_for_gpus(launches, d, h, k, dtype, capability):
    n = 3
    index, value = torch.zeros(n, k, dtype=torch.int64), torch.zeros(n, k)
    x, weight = torch.zeros(n, d, dtype=dtype), torch.zeros(h, d, dtype=dtype)
    dense, low = torch.zeros(n, h, dtype=dtype), torch.zeros(n, d)
    kernels.largest(dense, k)
    kernels.only_largest_(dense, k)
    kernels.dots(x, weight, index)
    kernels.combine(index, value, weight)
    kernels.residual(index, value, weight, torch.zeros(d), low)
    kernels.rectify_(dense)
    kernels.through_(dense, dense, 0.5)
    kernels.tangent_(low, low)
    kernels.unit_(low)
    by_latent = sparse.ByLatent.of(index, h)
    slots = (by_latent.slot, by_latent.cell, by_latent.start)
    pieces = kernels.Pieces.of(by_latent.start, n * k)
    kernels.sum_by_latent(*slots, pieces, value, x)
    kernels.sum_by_latent(*slots, pieces, value, torch.ones(n, 1))
    for kernel, arguments in launches:
        assert ".entry" in compile_for(capability, kernel, arguments)
    # All kernels of each module must be launched, except kernels that are called by kernels.
    assert {kernel.fn.__name__ for kernel, _ in launches} == launched_kernels()


def launched_kernels() -> set[str]:
    """Return the names of the kernels that some function of the package launches."""
    folder = Path(kernels.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    return set(re.findall(r"^    (_\w+)\[", text, flags=re.MULTILINE))
