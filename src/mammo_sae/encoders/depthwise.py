"""A depthwise convolution with a backward pass that is fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# For kernels up to this width, oneDNN computes the gradient several times faster than for others.
FAST_WIDTH = 3


class DepthwiseOnCPU(torch.autograd.Function):
    """A depthwise convolution with bias, computed in float32 and returned in the type of `x`.

    oneDNN's own backward pass takes most of the time of fine-tuning: for a 5x5 kernel, the
    gradients of weight and bias take ten times as long as the gradient of the map. Here the bias's
    gradient is a plain sum, and the gradient of a 5x5 kernel is joined from two parts of width 3.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
    ) -> Tensor:
        """Convolve `x` [n, c, r, w] with `weight` [c, 1, k, k]."""
        context.save_for_backward(x, weight)
        context.geometry = stride, padding
        y = functional.conv2d(x.float(), weight, bias, stride, padding, groups=len(weight))
        return y.to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x`, `weight` and `bias`."""
        x, weight = context.saved_tensors
        stride, padding = context.geometry
        # On some processors oneDNN refuses operands of two number types, even unused ones.
        gradient, x, dtype = gradient.float(), x.float(), x.dtype
        of_x = of_weight = of_bias = None
        if context.needs_input_grad[0]:
            of_x = _backward(gradient, x, weight, stride, (padding, padding), (True, False, False))[
                0
            ]
            of_x = of_x.to(dtype)
        if context.needs_input_grad[1]:
            if stride == 1 and weight.shape[-1] == 2 * FAST_WIDTH - 1 == 2 * padding + 1:
                of_weight = _weight_gradient_by_halves(gradient, x, weight, padding)
            else:
                of_weight = _backward(
                    gradient, x, weight, stride, (padding, padding), (False, True, False)
                )[1]
        if context.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _weight_gradient_by_halves(gradient: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of a 5x5 kernel at stride 1, computed three columns at a time.

    Columns 0 to 2 form a narrow kernel on the map shifted right by one column, columns 2 to 4 a
    narrow kernel on the map shifted left. Both give the middle column, which is used once.
    """
    narrow = weight[..., :FAST_WIDTH].contiguous()
    left, right = (
        _backward(
            functional.pad(gradient, (1 - move, move)),
            functional.pad(x, (move, 1 - move)),
            narrow,
            1,
            (padding, FAST_WIDTH // 2),
            (False, True, False),
        )[1]
        for move in (1, 0)
    )
    return torch.cat([left, right[..., 1:]], dim=-1)


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: tuple[int, int],
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        None,
        [stride, stride],
        list(padding),
        [1, 1],
        False,
        [0, 0],
        len(weight),
        list(wanted),
    )
