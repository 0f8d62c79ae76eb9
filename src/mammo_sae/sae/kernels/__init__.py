"""The products of `mammo_sae.sae.sparse`, as Triton kernels for a GPU.

Importing this package needs Triton, which comes with PyTorch's CUDA builds. Results are exact up to
the rounding of float32 sums, and are the same bytes in every run: only the length of a sum
determines how it is cut into pieces, the pieces are added in order, and no addition is atomic.

Time of a training step on an H100, **estimated** from its published rates, not measured (3 TB/s of
memory, 5 TB/s of level-2 cache, 700 TFLOP/s in bfloat16; d = 2048, h = 16384, k = 32, batch 4096,
operands of products in bfloat16):

| part | ms | bound by |
|---|---|---|
| weights and cells in bfloat16 | 0.17 | memory |
| pre-activations | 0.40 | the dense product, which hides the writing of its 134 MB |
| choice of k of h | 0.08 | one read of these 134 MB |
| each of five sparse products | 0.10 | n k rows of d values from the level-2 cache, 0.54 GB |
| writing both weights' gradients | 0.09 | memory |
| order of slots, residual, loss | 0.2 | launches, memory |
| radial part, unit norm of atoms | 0.22 | memory |
| Adam on 67 million values | 0.65 | memory: 28 bytes a value |

cuBLAS computes the dense product. A custom kernel could compute the group maxima in the same pass.
This would save half of a pass of 0.05 ms. The kernel would lose more than that if its rate were
below 90 % of cuBLAS's.
"""

from __future__ import annotations

from mammo_sae.sae.kernels.by_latent import Pieces, sum_by_latent
from mammo_sae.sae.kernels.products import combine, dots, residual
from mammo_sae.sae.kernels.rectified import rectify_, through_
from mammo_sae.sae.kernels.sphere import tangent_, unit_
from mammo_sae.sae.kernels.top_k import LONGEST, MOST, largest, only_largest_

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
