"""Factor a dense 3×3 convolution into the unary term of LESA: a grouped 3×3 and a 1×1 (paper, eq. 6).

The dense convolution maps group g of its input channels by a matrix W_g (C', 9·C/G).  The unary term can hold any
W_g of rank C'/G, as U_g V_g with V_g in the grouped 3×3 and U_g in the columns of the 1×1, so that each W_g is
replaced by the best approximation of that rank: the truncated singular value decomposition, of the weights alone or,
where maps are given, of what they do to the patches of such maps.

Shapes: C input channels, C' output channels, G groups, r = C'/G, p = 9·C/G values of a patch of one group, h×w maps.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-4
"""Added to the diagonals of covariances, as a share of their mean: few maps leave directions undetermined."""


@dataclass(frozen=True)
class Factors:
    """Hold the weights of the unary term, and the share of the dense weights' energy that they keep.

    ``grouped`` is (C', C/G, 3, 3), ``project`` is (C', C', 1, 1).
    """

    grouped: Tensor
    project: Tensor
    energy: float


def factorise(
    kernel: Tensor, groups: int, covariance: Tensor | None = None, scale: Tensor | None = None
) -> Factors:
    """Return the best unary term for a dense kernel.

    With a covariance it minimises ‖D (W_g − U_g V_g) Σ_g^½‖ for each group, else ‖W_g − U_g V_g‖.

    Args:
        kernel: (C', C, 3, 3).
        groups: G.
        covariance: Σ of the centred patches of each group, (G, p, p); None is the identity.
        scale: D, the weight of each output channel's error (C',); None is one.
    """
    matrices = _group_matrices(kernel, groups)
    rank = kernel.shape[0] // groups
    scale = torch.ones_like(matrices[0, :, 0]) if scale is None else _without_zeros(scale.to(matrices))
    scaled = scale[:, None] * matrices
    weighted = scaled if covariance is None else scaled @ covariance.to(matrices)
    gram = weighted @ scaled.mT
    basis = torch.linalg.eigh(gram).eigenvectors[..., -rank:]  # P (G, C', r), left singular vectors
    right = basis.mT @ scaled
    left = basis / scale[:, None]
    kept = 1 - ((left @ right - matrices).square().sum() / matrices.square().sum().clamp_min(1e-30)).item()
    project = left.permute(1, 0, 2).reshape(kernel.shape[0], -1, 1, 1)
    grouped = right.reshape(kernel.shape[0], -1, 3, 3)
    return Factors(grouped.to(kernel.dtype), project.to(kernel.dtype), kept)


def box_fitted(kernel: Tensor) -> Tensor:
    """Return the kernel that, at stride 1 and averaged 2×2, is nearest to ``kernel`` at stride 2 on white input.

    The average of 2×2 outputs is a convolution of the 2×2 averages of the input, so that the kernel is fitted to
    those by least squares: (C', C, 3, 3) -> (C', C, 3, 3).
    """
    pairs = torch.zeros(3, 4, dtype=torch.double, device=kernel.device)
    for tap in range(3):
        pairs[tap, tap : tap + 2] = 0.5
    boxes = torch.kron(pairs, pairs)  # (9, 16): the averages under the kernel, of a 4×4 patch of the input
    dense = F.pad(kernel.double(), (0, 1, 0, 1)).flatten(2)  # (C', C, 16)
    fitted = torch.linalg.solve(boxes @ boxes.T, boxes @ dense.mT).mT
    return fitted.unflatten(-1, (3, 3)).to(kernel.dtype)


def box_filtered(x: Tensor) -> Tensor:
    """Average x with its right, lower and diagonal neighbour, as the pool of stride 2 does: (N, C, H, W), same size.

    At the border the average is over the positions inside, as in ``AvgPool2d(2, ceil_mode=True)``.
    """
    ones = F.pad(torch.ones_like(x[:1, :1]), (0, 1, 0, 1))
    return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride=1) / F.avg_pool2d(ones, 2, stride=1)


class PatchMoments:
    """Add up the covariance of the 3×3 patches of each group, over maps given one after the other."""

    def __init__(self, groups: int, stride: int = 1) -> None:
        """Take G and the stride of the convolution, 1 or 2, at whose positions the patches are."""
        self.groups, self.stride = groups, stride
        self._sum: Tensor | float = 0.0
        self._second: Tensor | float = 0.0
        self._count = 0

    def add(self, x: Tensor) -> None:
        """Add the patches of inputs (N, C, h, w) of a 3×3 convolution with padding 1."""
        patches = F.unfold(x, 3, padding=1, stride=self.stride).unflatten(
            1, (self.groups, -1)
        )  # (N, G, p, n)
        patches = patches.permute(1, 2, 0, 3).flatten(2)
        self._sum = self._sum + patches.double().sum(2)
        self._second = self._second + (patches @ patches.mT).double()
        self._count += patches.shape[2]

    def covariance(self) -> Tensor:
        """Return the covariance of each group, with a small ridge: (G, p, p) in double precision."""
        mean = torch.as_tensor(self._sum) / self._count
        return _with_ridge(torch.as_tensor(self._second) / self._count - mean[:, :, None] * mean[:, None, :])


class ProjectionFit:
    """Fit a 1×1 convolution (C', C', 1, 1) to targets by least squares on centred values, and measure its error."""

    def __init__(self) -> None:
        self._gram: Tensor | float = 0.0
        self._cross: Tensor | float = 0.0
        self._targets: Tensor | float = 0.0
        self._sums: Tensor | float = 0.0
        self.count = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add maps, (N, C', h, w) each."""
        f, t = (maps.transpose(0, 1).flatten(1) for maps in (features, targets))
        self._gram = self._gram + (f @ f.T).double()
        self._cross = self._cross + (t @ f.T).double()
        self._targets = self._targets + t.double().square().sum(1)
        self._sums = self._sums + torch.stack([f.double().sum(1), t.double().sum(1)])
        self.count += f.shape[1]

    def solve(self, project: Tensor) -> Tensor:
        """Return the weights with the least error; a small ridge pulls towards ``project``."""
        gram, cross, _ = self._centred()
        weights = project.flatten(1).double()
        change = torch.linalg.solve(_with_ridge(gram), (cross - weights @ gram).T).T
        return (weights + change)[:, :, None, None].to(project.dtype)

    def error(self, project: Tensor, scale: Tensor) -> float:
        """Return ‖D (targets − project · features)‖ / ‖D targets‖ with D the ``scale`` of each channel (C',)."""
        gram, cross, targets = self._centred()
        weights = project.flatten(1).double()
        squares = targets - 2 * (weights * cross).sum(1) + ((weights @ gram) * weights).sum(1)
        scales = scale.double().square()
        return (
            ((scales * squares).sum().clamp_min(0) / (scales * targets).sum().clamp_min(1e-30)).sqrt().item()
        )

    def variance(self, project: Tensor) -> Tensor:
        """Return the variance of each channel of project · features, (C',)."""
        gram, _, _ = self._centred()
        weights = project.flatten(1).double()
        return ((weights @ gram) * weights).sum(1).clamp_min(1e-12)

    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        mean_f, mean_t = torch.as_tensor(self._sums) / self.count
        gram = torch.as_tensor(self._gram) / self.count - torch.outer(mean_f, mean_f)
        cross = torch.as_tensor(self._cross) / self.count - torch.outer(mean_t, mean_f)
        return gram, cross, torch.as_tensor(self._targets) / self.count - mean_t.square()


def _group_matrices(kernel: Tensor, groups: int) -> Tensor:
    """Return W_g of every group in double precision: (C', C, 3, 3) -> (G, C', p)."""
    return kernel.double().unflatten(1, (groups, -1)).transpose(0, 1).flatten(2)


def _without_zeros(scale: Tensor) -> Tensor:
    """Return absolute values, where a zero, whose channel would have no weight at all, counts as one."""
    return torch.where(scale == 0, 1.0, scale.abs())


def _with_ridge(covariance: Tensor) -> Tensor:
    ridge = RIDGE * covariance.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12  # of values that never change too
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return covariance + ridge[..., None, None] * identity
