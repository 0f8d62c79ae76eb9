"""What `mammo_sae.sae.sparse` computes, as Triton kernels for a GPU.

Importing this needs Triton, which comes with PyTorch's CUDA builds. Every result is exact up to the
rounding of float32 sums and has the same bytes each time: a sum is split into pieces by its size
alone and put together in their order, and nothing is added atomically.

What a step takes on an H100, **estimated** from its published rates and not measured (3 TB/s of
memory, 5 TB/s of level-2 cache, 700 TFLOP/s in bfloat16; d = 2048, h = 16384, k = 32, batch 4096,
operands of products in bfloat16):

| part | ms | bound by |
|---|---|---|
| weights and cells in bfloat16 | .17 | memory |
| pre-activations | .40 | the dense product; the result's 134 MB are written in its shadow |
| choice of k of h | .08 | one read of these 134 MB |
| each of five sparse products | .10 | n k rows of d values out of the level-2 cache, .54 GB |
| both weights' gradients, writing | .09 | memory |
| order of slots, residual, loss | .2 | launches, memory |
| radial part, unit norm of atoms | .22 | memory |
| Adam on 67 million values | .65 | memory: 28 bytes a value |

The dense product is cuBLAS's: an own one with the maxima in its epilogue would save half of a
.05 ms pass, and lose more than that if it ran at under 90 % of cuBLAS's rate.
"""

from __future__ import annotations

from mammo_sae.sae.kernels.by_latent import Pieces, sum_by_latent
from mammo_sae.sae.kernels.products import combine, dots, residual
from mammo_sae.sae.kernels.rectified import rectify_, through_
from mammo_sae.sae.kernels.selection import LONGEST, MOST, largest, only_largest_
from mammo_sae.sae.kernels.sphere import tangent_, unit_

__all__ = [
    "LONGEST",
    "MOST",
    "Pieces",
    "combine",
    "dots",
    "largest",
    "only_largest_",
    "rectify_",
    "residual",
    "sum_by_latent",
    "tangent_",
    "through_",
    "unit_",
]
