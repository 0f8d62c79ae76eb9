from __future__ import annotations

import pytest
import torch

from mammo_sae.compute.devices import product_type

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
