"""The definition of LESA on one page: equations 1–3 and 5–7 of arXiv 2107.05637 in plain PyTorch.

The functions take their weights from the modules of this package and compute the formulas with every logit of
all pairs of positions in memory.  They are the oracle of the tests: whatever computes the same in another way is
compared with this page, in output, all gradients and running statistics.  No fast code calls it.

The released code is taken to be what gave the published numbers.  Where it does more than the printed equation, it
is followed, and a comment that begins with "Released:" says so.  Equation 4 is the energy of a conditional random
field, from which the paper takes the two terms; it is not computed.

Shapes: N images, C channels in and C' out, G heads, an H×W map with n = H·W row-major positions, i the query's and
j the key's, dq = C'/(2G) query and key channels and dv = C'/G value channels a head.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention.reference import OwnPosition, relative_logits
from .attention.reference import softmax as softmax_over_keys
from .baselines import AttentionAugmentation, SelfAttention, StaticLESA
from .binary import BinaryTerm, DecomposedBinaryTerm
from .fusion import Gate
from .lesa import LESA
from .positions import Size
from .precision import at_least_float32, no_autocast
from .slot import SlotOperator
from .unary import UnaryTerm


def softmax(logits: Tensor, own_position: OwnPosition = "kept") -> Tensor:
    """Compute S of eq. 3 over the keys: (N, G, n, n) -> (N, G, n, n).

    The ablation of Table 1, which removes the unary term of eq. 2, is, as we read it, "dropped": S_ii = 0, all
    others as they are, so that 98.03 % of the weight remain.
    """
    return softmax_over_keys(logits, own_position)


def attention(logits: Tensor, v: Tensor) -> Tensor:
    """Compute eq. 1, Σ_j S_ij v_j: (N, G, n, n) and (N, G, n, dv) -> (N, G, n, dv)."""
    return softmax(logits) @ v


def split_attention(logits: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the two terms of eq. 2, S_ii v_i and Σ_{j ≠ i} S_ij v_j, whose sum is :func:`attention`."""
    weights = softmax(logits)
    own = weights.diagonal(dim1=-2, dim2=-1)
    return own[..., None] * v, (weights - own.diag_embed()) @ v


def lesa(op: LESA, x: Tensor) -> Tensor:
    """Compute eq. 5, m_i + ω_i Σ_j S_ij v_j: (N, C, H, W) -> (N, C', ⌈H/s⌉, ⌈W/s⌉)."""
    m, context = unary(op.unary, x), binary(op.binary, x)
    # Released: with stride 2 everything runs at the input's resolution, and an average pool comes last.
    return op.pool(m + gate(op.gate, m, context) * context)


def unary(term: UnaryTerm, x: Tensor) -> Tensor:
    """Compute eq. 6, m = x W_g^k W_1^1, a grouped 3×3 and a 1×1: (N, C, H, W) -> (N, C', H, W)."""
    # Released: the norm of m, which is one half of the first BN of eq. 7, comes before the sum of eq. 5 too.
    return term.norm(term.project(term.conv(x)))


def gate(module: Gate, m: Tensor, context: Tensor) -> Tensor:
    """Compute eq. 7, ω = sigmoid(F(m ‖ context)), F = BN, ReLU, fc1, BN, ReLU, fc2, BN; all (N, C', H, W)."""
    # Released: the first BN is the norm at the end of each of the two terms, so that the ReLU comes first here.
    hidden = module.norm1(module.fc1(F.relu(torch.cat([m, context], dim=1))))
    return torch.sigmoid(module.norm2(module.fc2(F.relu(hidden))))


def binary(term: BinaryTerm, x: Tensor) -> Tensor:
    """Compute Σ_j S_ij v_j of eq. 5, with j over all positions, i among them: (N, C, H, W) -> (N, C', H, W)."""
    size = (x.shape[2], x.shape[3])
    q, k, v = project(term, x)
    with no_autocast(x):
        q, k, wide = map(at_least_float32, (q, k, v))
        weights = softmax(logits(term, q, k, size), term.own_position)
        out = weights @ wide
        if not isinstance(term, DecomposedBinaryTerm):
            # Released: with flattened positions the values depend on the positions too, by Σ_j S_ij Rv[i − j];
            # the paper cites this (Table 2: the position embedding of axial attention).
            relative = torch.einsum("bgij,cij->bgic", weights, term.positions(size)[2].to(q.dtype))
            out = torch.stack([out, relative], dim=-1).flatten(3)  # interleaved: even S·v, odd S·Rv
    # Released: a norm comes last; it sees 2C' channels with flattened positions, which are then added in pairs.
    maps = term.out_norm(out.to(v.dtype).mT.flatten(1, 2).unflatten(2, size))
    return maps.unflatten(1, (-1, term.outputs_per_channel)).sum(2)


def project(term: BinaryTerm, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute q, k, v = x Wq, x Wk, x Wv: (N, C, H, W) -> (N, G, n, dq) twice and (N, G, n, dv)."""
    # Released: one projection, which a norm follows.  Head g holds the channels [q (dq), k (dq), v (dv)].
    heads = term.qkv_norm(term.qkv(x)).flatten(2).unflatten(1, (term.num_heads, -1)).mT
    q, k, v = heads.split([term.key_dim, term.key_dim, term.value_dim], dim=-1)
    return q, k, v


def logits(term: BinaryTerm, q: Tensor, k: Tensor, size: Size) -> Tensor:
    """Compute q_iᵀk_j + q_iᵀr_ij of eq. 1, which eq. 5 and 7 print without r: (N, G, n, n).

    ``q`` and ``k`` are (N, G, n, dq), ``size`` is (H, W).  Tables that were made for a map of another size are
    interpolated by :mod:`.positions`; the released code takes maps of one size alone.
    """
    if isinstance(term, DecomposedBinaryTerm):
        # Released: r_ij = Rw[x_j − x_i] + Rh[y_j − y_i], one table an axis.
        relative = [relative_logits(*term.positions(q, size))]
    else:
        # Released: r_ij = Rq[i − j] of the flattened positions, and a term k_jᵀ Rk[j − i] of the key;
        # the paper cites these too.
        rq, rk, _ = (table.to(q.dtype) for table in term.positions(size))
        relative = [torch.einsum("bgic,cij->bgij", q, rq), torch.einsum("bgjc,cij->bgij", k, rk)]
    # Released: every term of the logits passes a norm, one channel a term and head, before the terms are added.
    # As in the paper, nothing is divided by the root of dq.
    maps = term.logit_norm(torch.cat([q @ k.mT, *relative], dim=1))
    return maps.unflatten(1, (term.num_logit_terms, term.num_heads)).sum(1)


def self_attention(op: SelfAttention, x: Tensor) -> Tensor:
    """Compute eq. 1 as an operator of its own: the binary term, then the trailing norm."""
    return op.norm(op.pool(binary(op.binary, x)))


def static_lesa(op: StaticLESA, x: Tensor) -> Tensor:
    """Compute eq. 5 with ω = 1, then the trailing norm."""
    return op.norm(op.pool(unary(op.unary, x) + binary(op.binary, x)))


def attention_augmentation(op: AttentionAugmentation, x: Tensor) -> Tensor:
    """Compute an attention-augmented convolution (arXiv 1904.09925), then the trailing norm.

    It is no equation of the paper: the queries are divided by the root of their length, and no logit is normalised.
    """
    size = (x.shape[2], x.shape[3])
    channels = [op.key_channels, op.key_channels, op.value_channels]
    q, k, v = (t.flatten(2).unflatten(1, (op.num_heads, -1)).mT for t in op.qkv(x).split(channels, dim=1))
    with no_autocast(x):
        q, k, wide = map(at_least_float32, (q / q.shape[-1] ** 0.5, k, v))
        scores = q @ k.mT + relative_logits(*op.positions(q, size))
        out = softmax(scores, op.own_position) @ wide
    maps = op.project(out.to(v.dtype).mT.flatten(1, 2).unflatten(2, size))
    return op.norm(op.pool(torch.cat([op.conv(x), maps], dim=1)))


DEFINITIONS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    LESA: lesa,
    StaticLESA: static_lesa,
    SelfAttention: self_attention,
    AttentionAugmentation: attention_augmentation,
    BinaryTerm: binary,
    UnaryTerm: unary,
}
"""The function that defines a module, by its class."""


class ByDefinition(nn.Module):
    """Compute an operator, or one of its terms, by the function that defines it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.define = next(define for kind, define in DEFINITIONS.items() if isinstance(module, kind))

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output for ``x``."""
        return self.define(self.module, x)


def by_definition(model: nn.Module) -> nn.Module:
    """Replace every operator inside ``model`` by :class:`ByDefinition` of it, in place, and return the model."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SlotOperator):
                setattr(parent, name, ByDefinition(child))
    return model
