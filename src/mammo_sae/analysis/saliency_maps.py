"""Maps of the cells that raise a logit: Grad-CAM and integrated gradients of a layer's map.

Both are computed from a layer's stored map x [cells, channels], with the rest of the network f:

- ``grad_cam`` (Selvaraju et al., ICCV 2017): sum_c a_c x_jc, where a_c is the mean over the cells
  of df/dx_jc;
- ``integrated_gradients`` (Sundararajan et al., ICML 2017): sum_c x_jc times the integral over t
  from 0 to 1 of df/dx_jc at t x. The baseline is a map of zeros. The integral is a sum over the
  nodes of Gauss and Legendre.

A cell of negative value lowers the logit. As in Grad-CAM, it counts as 0.

After the head layer the network is linear: the mean over the cells and the head w. Then both maps
are w.x_j / cells, the class activation map of Zhou et al. (CVPR 2016), and one node is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mammo_sae.encoders.heads import Head
from mammo_sae.encoders.networks.network import Network, to_map

METHODS = ("grad_cam", "integrated_gradients")


@dataclass(frozen=True)
class CutNetwork:
    """The rest of a network after `layer`, with one row of its head: the logit of `concept`."""

    network: Network
    head: Head
    layer: str
    concept: str

    def logits(self, cells: Tensor, prefix: Tensor | None) -> Tensor:
        """Return the logits [n] of maps [n, R, C, d] and tokens beside them [n, t, d]."""
        pooled = self.network.rest(self.layer, to_map(cells, self.network.dtype, prefix))
        row = self.head.row(self.concept)
        return pooled @ torch.from_numpy(self.head.weight[row]) + float(self.head.bias[row])

    def slope(self, cells: Tensor, prefix: Tensor | None) -> Tensor:
        """Return the gradient [n, R, C, d] of each image's logit with respect to the cells."""
        start = cells.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.logits(start, prefix).sum(), start)
        return slope


def saliency_maps(
    cut: CutNetwork, cells: Tensor, prefix: Tensor | None, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of both `METHODS`, float32 [n, 2, R, C], and two sums, float64 [n, 2].

    Parameters
    ----------
    cells : [n, R, C, d]
    prefix : [n, t, d] or None
        The tokens beside the cells, which keep their values along the integral.
    steps
        Number of nodes of the integral.

    Notes
    -----
    The sum of integrated gradients over all cells, before negative values become 0, is the
    difference of the logits of x and of the map of zeros. The second array has this sum and this
    difference, so that the error of the integral can be seen.
    """
    cells = cells.to(torch.float32)
    camera = (cells * cut.slope(cells, prefix).mean(dim=(1, 2), keepdim=True)).sum(dim=3)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(cells)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += float(weight) * cut.slope(cells * float(node), prefix)
    integrated = (cells * total).sum(dim=3)
    with torch.inference_mode():
        difference = cut.logits(cells, prefix) - cut.logits(torch.zeros_like(cells), prefix)
    maps = torch.stack([camera, integrated], dim=1).clamp(min=0)
    sums = torch.stack([integrated.sum(dim=(1, 2)), difference], dim=1)
    return maps.numpy(), sums.double().numpy()
