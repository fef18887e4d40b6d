"""Triton kernels of exact attention with decomposed relative logits, in the manner of FlashAttention-2.

A program owns a block of queries (or, for the gradients of keys and values, a segment of one image row) and
walks over the other side tile by tile; a tile of keys is a segment of one image row.  So a tile needs one
number a query from row_bias, and its col_bias stays in registers while the walk goes down the rows: the
biases cost little, and their gradients are sums over a walk.

Logits live in base 2 (``LOG2E``), in float32; the products of vectors run in the vectors' own dtype.

Shapes: B = N·G maps, n = H·W keys, m queries, contiguous (B, m, ·) and (B, n, ·); D and DV are padded to powers of
two for the tensor cores.  Importing this module needs Triton.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(base, rows, rows_inside, DIM: tl.constexpr, DIM_PADDED: tl.constexpr):
    """Load (rows, DIM_PADDED) of a contiguous (·, DIM) matrix, zero outside."""
    d = tl.arange(0, DIM_PADDED)
    mask = rows_inside[:, None] & (d < DIM)[None, :]
    return tl.load(base + rows[:, None] * DIM + d[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, rows, rows_inside, values, DIM: tl.constexpr, DIM_PADDED: tl.constexpr):
    """Store rows, as :func:`load_rows` loads them, in the matrix's dtype."""
    d = tl.arange(0, DIM_PADDED)
    mask = rows_inside[:, None] & (d < DIM)[None, :]
    tl.store(base + rows[:, None] * DIM + d[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def load_col_bias(col, i, i_inside, x, width):
    """Load (queries, x) in base 2; −inf beyond the map, so that such keys get no weight."""
    mask = i_inside[:, None] & (x < width)[None, :]
    tile = tl.load(col + i[:, None] * width + x[None, :], mask=mask, other=0.0).to(tl.float32) * LOG2E
    return tl.where((x < width)[None, :], tile, float("-inf"))


@triton.jit
def load_row_bias(row, i, i_inside, y, height):
    """Load (queries,) for the keys of image row y, in base 2."""
    return tl.load(row + i * height + y, mask=i_inside, other=0.0).to(tl.float32) * LOG2E


@triton.jit
def tile_logits(q, k, col_bias, row_bias, PRECISION: tl.constexpr):
    """Compute (queries, keys) in base 2, for queries and keys (·, DP); row_bias may carry a shift."""
    content = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    return content * LOG2E + (col_bias + row_bias[:, None])


@triton.jit
def attention_forward(
    q_ptr, k_ptr, v_ptr, col_ptr, row_ptr, out_ptr, lse_ptr, m, height, width,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr,
    QUERIES: tl.constexpr, SEGMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the output, and the log-sum-exp of the logits (natural base), of a block of queries; online softmax."""
    first = tl.program_id(1).to(tl.int64) * m
    first_key = tl.program_id(1).to(tl.int64) * height * width
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = i < m
    col, row = col_ptr + first * width, row_ptr + first * height
    k_map, v_map = k_ptr + first_key * D, v_ptr + first_key * DV
    q = load_rows(q_ptr + first * D, i, inside, D, DP)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, DVP], tl.float32)
    for x0 in range(0, width, SEGMENT):
        x = x0 + tl.arange(0, SEGMENT)
        col_bias = load_col_bias(col, i, inside, x, width)
        for y in range(height):
            j = y * width + x
            k = load_rows(k_map, j, x < width, D, DP)
            v = load_rows(v_map, j, x < width, DV, DVP)
            row_bias = load_row_bias(row, i, inside, y, height)
            logits = tile_logits(q, k, col_bias, row_bias, PRECISION)
            now_highest = tl.maximum(highest, tl.max(logits, 1))
            shift = tl.where(now_highest == float("-inf"), 0.0, now_highest)  # all keys so far excluded
            p = tl.exp2(logits - shift[:, None])
            shrink = tl.exp2(highest - shift)
            total = total * shrink + tl.sum(p, 1)
            acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
            highest = now_highest
    store_rows(out_ptr + first * DV, i, inside, acc / total[:, None], DV, DVP)
    tl.store(lse_ptr + first + i, (highest + tl.log2(total)) / LOG2E, mask=inside)


@triton.jit
def attention_backward_queries(
    q_ptr, k_ptr, v_ptr, col_ptr, row_ptr, grad_ptr, lse_ptr, mean_ptr, dq_ptr, dcol_ptr, drow_ptr,
    m, height, width,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr,
    QUERIES: tl.constexpr, SEGMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a block of queries and of their biases; drow must start at zero."""
    first = tl.program_id(1).to(tl.int64) * m
    first_key = tl.program_id(1).to(tl.int64) * height * width
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = i < m
    col, row = col_ptr + first * width, row_ptr + first * height
    k_map, v_map = k_ptr + first_key * D, v_ptr + first_key * DV
    q = load_rows(q_ptr + first * D, i, inside, D, DP)
    grad = load_rows(grad_ptr + first * DV, i, inside, DV, DVP)
    lse = tl.load(lse_ptr + first + i, mask=inside, other=0.0) * LOG2E
    mean = tl.load(mean_ptr + first + i, mask=inside, other=0.0)
    dq = tl.zeros([QUERIES, DP], tl.float32)
    for x0 in range(0, width, SEGMENT):
        x = x0 + tl.arange(0, SEGMENT)
        col_bias = load_col_bias(col, i, inside, x, width)
        dcol = tl.zeros([QUERIES, SEGMENT], tl.float32)
        for y in range(height):
            j = y * width + x
            k = load_rows(k_map, j, x < width, D, DP)
            v = load_rows(v_map, j, x < width, DV, DVP)
            row_bias = load_row_bias(row, i, inside, y, height)
            p = tl.exp2(tile_logits(q, k, col_bias, row_bias - lse, PRECISION))
            dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
            ds = p * (dp - mean[:, None])
            dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
            dcol += ds
            # Nobody else adds to these numbers, but one program comes by once a segment.
            tl.atomic_add(drow_ptr + (first + i) * height + y, tl.sum(ds, 1), mask=inside, sem="relaxed")
        mask = inside[:, None] & (x < width)[None, :]
        tl.store(dcol_ptr + first * width + i[:, None] * width + x[None, :], dcol, mask=mask)
    store_rows(dq_ptr + first * D, i, inside, dq, D, DP)


@triton.jit
def attention_backward_keys(
    q_ptr, k_ptr, v_ptr, col_ptr, row_ptr, grad_ptr, lse_ptr, mean_ptr, dk_ptr, dv_ptr,
    m, height, width,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr,
    QUERIES: tl.constexpr, SEGMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the keys and values in a segment of one image row."""
    first = tl.program_id(1).to(tl.int64) * m
    first_key = tl.program_id(1).to(tl.int64) * height * width
    segments = tl.cdiv(width, SEGMENT)
    y = tl.program_id(0) // segments
    x = (tl.program_id(0) % segments) * SEGMENT + tl.arange(0, SEGMENT)
    j = y * width + x
    col, row = col_ptr + first * width, row_ptr + first * height
    q_map, grad_map = q_ptr + first * D, grad_ptr + first * DV
    k = load_rows(k_ptr + first_key * D, j, x < width, D, DP)
    v = load_rows(v_ptr + first_key * DV, j, x < width, DV, DVP)
    dk = tl.zeros([SEGMENT, DP], tl.float32)
    dv = tl.zeros([SEGMENT, DVP], tl.float32)
    for i0 in range(0, m, QUERIES):
        i = i0 + tl.arange(0, QUERIES)
        inside = i < m
        q = load_rows(q_map, i, inside, D, DP)
        grad = load_rows(grad_map, i, inside, DV, DVP)
        lse = tl.load(lse_ptr + first + i, mask=inside, other=float("inf")) * LOG2E
        mean = tl.load(mean_ptr + first + i, mask=inside, other=0.0)
        col_bias = load_col_bias(col, i, inside, x, width)
        row_bias = load_row_bias(row, i, inside, y, height)
        p = tl.exp2(tile_logits(q, k, col_bias, row_bias - lse, PRECISION))
        dv += tl.dot(tl.trans(p.to(grad.dtype)), grad, input_precision=PRECISION)
        dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        ds = p * (dp - mean[:, None])
        dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION)
    store_rows(dk_ptr + first_key * D, j, x < width, dk, D, DP)
    store_rows(dv_ptr + first_key * DV, j, x < width, dv, DV, DVP)
