from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mammo_sae.encoders.depthwise import DepthwiseOnCPU


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (4, 2, 1), (5, 2, 2), (6, 2, 2)]
)
@pytest.mark.parametrize("size", [(13, 9), (8, 8), (3, 2)])
def test_value_and_gradients_are_those_of_the_plain_convolution(kernel, stride, padding, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *size, generator=generator, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, generator=generator, requires_grad=True)
    bias = torch.randn(4, generator=generator, requires_grad=True)
    ours = DepthwiseOnCPU.apply(x, weight, bias, stride, padding)
    plain = functional.conv2d(x, weight, bias, stride, padding, groups=4)
    assert torch.equal(ours, plain)
    upstream = torch.randn(plain.shape, generator=generator)
    gradients = torch.autograd.grad(ours, (x, weight, bias), upstream)
    expected = torch.autograd.grad(plain, (x, weight, bias), upstream)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_bfloat16_map_gives_a_bfloat16_map_and_gradient():
    x = torch.randn(1, 4, 6, 6).bfloat16().requires_grad_()
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    y = DepthwiseOnCPU.apply(x, weight, torch.zeros(4), 1, 1)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
