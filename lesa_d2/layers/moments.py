"""Mean and variance of all pairs' logits in closed form, without computing the pairs.

Each term of the logits is normalised by its mean and variance over images and pairs (i, j), head by head.
Everything is a sum of squares about a mean, so that nothing cancels; the cost is O(n·d²).

Shapes: N images, G heads, n = H·W positions, d channels a head; results (G,).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean and biased variance (C,), over ``count`` values each, of the logits of one term, or of several."""

    mean: Tensor
    variance: Tensor
    count: int  # type: ignore[assignment]  # hides tuple.count

    @staticmethod
    def of_terms(terms: "list[Moments]") -> "Moments":
        """Concatenate the channels of terms with the same count."""
        means, variances, counts = zip(*terms, strict=True)
        return Moments(torch.cat(means), torch.cat(variances), counts[0])


def content_moments(q: Tensor, k: Tensor) -> Moments:
    """Compute the moments of q_i·k_j; q, k (N, G, n, d).

    With q_i = q̄ + q̃_i and k_j = k̄ + k̃_j an image's logits have the mean q̄·k̄ and the variance
    k̄ᵀ C_q k̄ + q̄ᵀ C_k q̄ + ⟨C_q, C_k⟩, C the covariance of a map's vectors.
    """
    (q_mean, q_cov), (k_mean, k_cov) = _mean_and_covariance(q), _mean_and_covariance(k)
    image_mean = (q_mean * k_mean).sum(-1)
    image_variance = _form(q_cov, k_mean) + _form(k_cov, q_mean) + (q_cov * k_cov).sum((-2, -1))
    return _over_images(image_mean, image_variance, q.shape[2])


def relative_moments(q: Tensor, columns: Tensor, rows: Tensor) -> Moments:
    """Compute the moments of q_i·(columns[x_i, x_j] + rows[y_i, y_j]).

    q (N, G, n, d) with n = H·W, columns (W, W, d), rows (H, H, d).  A query's logits have the mean
    q_i·(c̄[x_i] + r̄[y_i]) over all keys and the variance q_iᵀ (C_c[x_i] + C_r[y_i]) q_i, with mean and
    covariance of the embeddings that a column, or row, sees.
    """
    grid = q.unflatten(2, (rows.shape[0], columns.shape[0]))
    (col_mean, col_cov), (row_mean, row_cov) = _mean_and_covariance(columns), _mean_and_covariance(rows)
    query_mean = (grid * (row_mean[:, None] + col_mean[None])).sum(-1).flatten(2)
    by_column = (grid * torch.einsum("bgyxc,xcd->bgyxd", grid, col_cov)).sum(-1)
    by_row = (grid * torch.einsum("bgyxc,ycd->bgyxd", grid, row_cov)).sum(-1)
    return _over_queries(query_mean, (by_column + by_row).flatten(2))


def pair_moments(q: Tensor, embeddings: Tensor) -> Moments:
    """Compute the moments of q_i·embeddings[i, j]; q (N, G, n, d), embeddings (n, n, d)."""
    mean, covariance = _mean_and_covariance(embeddings)
    variance = (q * torch.einsum("bgic,icd->bgid", q, covariance)).sum(-1)
    return _over_queries((q * mean).sum(-1), variance)


def _mean_and_covariance(t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute over n vectors: (…, n, d) -> mean (…, d) and covariance (…, d, d)."""
    mean = t.mean(-2, keepdim=True)
    centred = t - mean
    return mean.squeeze(-2), centred.transpose(-2, -1) @ centred / t.shape[-2]


def _form(matrix: Tensor, vector: Tensor) -> Tensor:
    """Compute vᵀ M v; (N, G, d, d) and (N, G, d) -> (N, G)."""
    return torch.einsum("bgc,bgcd,bgd->bg", vector, matrix, vector)


def _over_queries(mean: Tensor, variance: Tensor) -> Moments:
    """Combine moments (N, G, n) of every query's logits into (G,) of all."""
    spread, image_mean = torch.var_mean(mean, -1, correction=0)
    return _over_images(image_mean, spread + variance.mean(-1), mean.shape[-1])


def _over_images(mean: Tensor, variance: Tensor, positions: int) -> Moments:
    """Combine moments (N, G) of every image into (G,) of all; an empty batch has mean and variance zero."""
    images = max(mean.shape[0], 1)
    overall = mean.sum(0) / images
    spread = (mean - overall).square()
    return Moments(overall, (spread + variance).sum(0) / images, mean.shape[0] * positions**2)
