from __future__ import annotations

import pytest
import torch

from mammo_sae.compute.devices import in_parts, product_type

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": True, "sse4a": False}, torch.float32),
        ({"avx512_bf16": True, "sse4a": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"sve_bf16": True}, torch.bfloat16),
    ],
)
def test_products_are_bfloat16_only_on_processors_where_that_is_faster(
    monkeypatch, units, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert product_type(CPU) is expected


def test_a_batch_that_does_not_fit_is_done_in_parts_in_order():
    asked = []

    def function(part):
        asked.append(part.stop - part.start)
        if asked[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    assert [i for part in in_parts(function, 10) for i in part] == list(range(10))
    assert asked[0] == 10
    assert sum(size for size in asked if size <= 3) == 10


def test_one_item_that_does_not_fit_is_an_error():
    def function(part):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        in_parts(function, 10)
