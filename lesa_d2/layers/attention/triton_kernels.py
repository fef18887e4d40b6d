"""Triton kernels of exact attention with decomposed relative logits, in the manner of FlashAttention-2.

A program owns a block of queries (or, for the gradients of keys and values, a tile of keys) and walks over the other
side tile by tile.  A tile of keys has ROWS image rows of SEGMENT columns.  So a tile needs ROWS numbers a query from
row_bias, and its col_bias stays in registers while the walk goes down the rows: the biases cost little, and their
gradients are sums over a walk.

Logits are in base 2 and float32: q comes multiplied by log2(e), and the biases, multiplied when they are loaded, are
what the product of vectors starts from.  Products of vectors run in the vectors' own dtype.

Shapes: B = N·G maps, n = H·W keys, m queries; contiguous (B, m, ·) and (B, n, ·), but row_bias and its gradient
(B, H, m), so that neighbouring queries are neighbours in memory.  Programs are counted along one axis, map by map.
D and DV are padded to powers of two for the tensor cores.  Importing this module needs Triton.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
ALL_WHOLE = tl.constexpr(2.0**23)  # from here on float32 has whole numbers only
ROUNDING = tl.constexpr(
    1.5 * 2.0**23
)  # added to a smaller number, it leaves the nearest whole one in the last bits


@triton.jit
def load_rows(base, rows, inside, DIM: tl.constexpr, DIM_PADDED: tl.constexpr):
    """Load (rows, DIM_PADDED) of a contiguous (·, DIM) matrix, zero outside."""
    d = tl.arange(0, DIM_PADDED)
    mask = inside[:, None] & (d < DIM)[None, :]
    return tl.load(base + rows[:, None] * DIM + d[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, rows, inside, values, DIM: tl.constexpr, DIM_PADDED: tl.constexpr):
    """Store rows, as :func:`load_rows` loads them, in the matrix's dtype."""
    d = tl.arange(0, DIM_PADDED)
    mask = inside[:, None] & (d < DIM)[None, :]
    tl.store(base + rows[:, None] * DIM + d[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def load_col_bias(col, i, i_inside, x, width):
    """Load (queries, columns) in base 2; −inf beyond the map, so that such keys get no weight."""
    mask = i_inside[:, None] & (x < width)[None, :]
    tile = tl.load(col + i[:, None] * width + x[None, :], mask=mask, other=float("-inf"))
    return tile.to(tl.float32) * LOG2E


@triton.jit
def load_row_bias(row, i, i_inside, y, m, height):
    """Load (queries, image rows) in base 2; −inf beyond the map."""
    mask = i_inside[:, None] & (y < height)[None, :]
    tile = tl.load(row + y[None, :] * m + i[:, None], mask=mask, other=float("-inf"))
    return tile.to(tl.float32) * LOG2E


@triton.jit
def add_biases(col_bias, row_bias):
    """Add (queries, SEGMENT) and (queries, ROWS) for all pairs: (queries, ROWS·SEGMENT)."""
    bias = row_bias[:, :, None] + col_bias[:, None, :]
    return tl.reshape(bias, [bias.shape[0], bias.shape[1] * bias.shape[2]])


@triton.jit
def add_biases_transposed(col_bias, row_bias):
    """Add (SEGMENT, queries) and (ROWS, queries) for all pairs: (ROWS·SEGMENT, queries)."""
    bias = row_bias[:, None, :] + col_bias[None, :, :]
    return tl.reshape(bias, [bias.shape[0] * bias.shape[1], bias.shape[2]])


@triton.jit
def tile_of_keys(x0, y0, width, height, ROWS: tl.constexpr, SEGMENT: tl.constexpr):
    """Return the indices of a tile's keys, (ROWS·SEGMENT,), and which of them are inside of the map."""
    t = tl.arange(0, ROWS * SEGMENT)
    x, y = x0 + t % SEGMENT, y0 + t // SEGMENT
    return y * width + x, (x < width) & (y < height)


@triton.jit
def places_of_map(number, m, n):
    """Return where a map's queries and keys begin among those of all maps, in 64 bits."""
    return number.to(tl.int64) * m, number.to(tl.int64) * n


@triton.jit
def block_of_queries(m, n, QUERIES: tl.constexpr):
    """Return where the map of this program begins, its indices of queries, and which of them are inside of the map."""
    blocks = tl.cdiv(m, QUERIES)
    first, first_key = places_of_map(tl.program_id(0) // blocks, m, n)
    i = (tl.program_id(0) % blocks) * QUERIES + tl.arange(0, QUERIES)
    return first, first_key, i, i < m


@triton.jit
def nearest_whole(x):
    """Round to a whole number, within one."""
    return tl.where(tl.abs(x) < ALL_WHOLE, (x + ROUNDING) - ROUNDING, x)


@triton.jit
def power_of_two(exponent):
    """Compute 2 to a whole number that is not above zero, without the unit for exponentials; zero below 2^−126."""
    bits = (tl.maximum(exponent, -127.0) + ROUNDING).to(tl.int32, bitcast=True)
    return ((bits + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def attention_forward(
    q_ptr, k_ptr, v_ptr, col_ptr, row_ptr, out_ptr, lse_ptr, m, height, width,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr,
    QUERIES: tl.constexpr, SEGMENT: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the output, and the log-sum-exp of the logits (base 2), of a block of queries.

    The softmax is computed online.  Its shift is the highest logit so far, rounded to a whole number: a new one scales
    the sums by a power of two, exactly and without an exponential.
    """
    first, first_key, i, inside = block_of_queries(m, height * width, QUERIES)
    col, row = col_ptr + first * width, row_ptr + first * height
    k_map, v_map = k_ptr + first_key * D, v_ptr + first_key * DV
    q = load_rows(q_ptr + first * D, i, inside, D, DP)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, DVP], tl.float32)
    for x0 in range(0, width, SEGMENT):
        col_bias = load_col_bias(col, i, inside, x0 + tl.arange(0, SEGMENT), width)
        for y in range(0, height, ROWS):
            j, j_inside = tile_of_keys(x0, y, width, height, ROWS, SEGMENT)
            k = load_rows(k_map, j, j_inside, D, DP)
            v = load_rows(v_map, j, j_inside, DV, DVP)
            row_bias = load_row_bias(row, i, inside, y + tl.arange(0, ROWS), m, height)
            bias = add_biases(col_bias, row_bias)
            logits = tl.dot(q, tl.trans(k), acc=bias, input_precision=PRECISION)
            now_highest = tl.maximum(highest, nearest_whole(tl.max(logits, 1)))
            shift = tl.where(now_highest == float("-inf"), 0.0, now_highest)  # all keys so far excluded
            p = tl.exp2(logits - shift[:, None])
            shrink = power_of_two(highest - shift)
            total = total * shrink + tl.sum(p, 1)
            acc = tl.dot(p.to(v.dtype), v, acc=acc * shrink[:, None], input_precision=PRECISION)
            highest = now_highest
    store_rows(out_ptr + first * DV, i, inside, acc / total[:, None], DV, DVP)
    tl.store(lse_ptr + first + i, highest + tl.log2(total), mask=inside)


@triton.jit
def attention_backward_queries(
    q_ptr, k_ptr, v_ptr, col_ptr, row_ptr, grad_ptr, lse_ptr, mean_ptr, dq_ptr, dcol_ptr, drow_ptr,
    m, height, width,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr,
    QUERIES: tl.constexpr, SEGMENT: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ONE_SEGMENT: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a block of queries and of their biases; drow starts at zero unless ONE_SEGMENT."""
    first, first_key, i, inside = block_of_queries(m, height * width, QUERIES)
    col, row, drow = col_ptr + first * width, row_ptr + first * height, drow_ptr + first * height
    k_map, v_map = k_ptr + first_key * D, v_ptr + first_key * DV
    q = load_rows(q_ptr + first * D, i, inside, D, DP)
    grad = load_rows(grad_ptr + first * DV, i, inside, DV, DVP)
    lse = tl.load(lse_ptr + first + i, mask=inside, other=0.0)
    mean = tl.load(mean_ptr + first + i, mask=inside, other=0.0)
    dq = tl.zeros([QUERIES, DP], tl.float32)
    for x0 in range(0, width, SEGMENT):
        x = x0 + tl.arange(0, SEGMENT)
        col_bias = load_col_bias(col, i, inside, x, width) - lse[:, None]
        dcol = tl.zeros([QUERIES, SEGMENT], tl.float32)
        for y in range(0, height, ROWS):
            j, j_inside = tile_of_keys(x0, y, width, height, ROWS, SEGMENT)
            k = load_rows(k_map, j, j_inside, D, DP)
            v = load_rows(v_map, j, j_inside, DV, DVP)
            row_bias = load_row_bias(row, i, inside, y + tl.arange(0, ROWS), m, height)
            bias = add_biases(col_bias, row_bias)
            p = tl.exp2(tl.dot(q, tl.trans(k), acc=bias, input_precision=PRECISION))
            dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
            ds = p * (dp - mean[:, None])
            dq = tl.dot(ds.to(k.dtype), k, acc=dq, input_precision=PRECISION)
            per_row = tl.reshape(ds, [QUERIES, ROWS, SEGMENT])
            dcol += tl.sum(per_row, 1)
            rows = y + tl.arange(0, ROWS)
            place = drow + rows[None, :] * m + i[:, None]
            mask = inside[:, None] & (rows < height)[None, :]
            if ONE_SEGMENT:
                tl.store(place, tl.sum(per_row, 2), mask=mask)
            else:  # only this program adds to these numbers, once a segment
                tl.atomic_add(place, tl.sum(per_row, 2), mask=mask, sem="relaxed")
        mask = inside[:, None] & (x < width)[None, :]
        tl.store(dcol_ptr + first * width + i[:, None] * width + x[None, :], dcol, mask=mask)
    store_rows(dq_ptr + first * D, i, inside, dq, D, DP)


@triton.jit
def attention_backward_keys(
    q_ptr, k_ptr, v_ptr, col_ptr, row_ptr, grad_ptr, lse_ptr, mean_ptr, dk_ptr, dv_ptr,
    m, height, width,
    D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, DVP: tl.constexpr,
    QUERIES: tl.constexpr, SEGMENT: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the keys and values of a tile; a col_bias tile is read once for all its rows."""
    segments = tl.cdiv(width, SEGMENT)
    tiles = segments * tl.cdiv(height, ROWS)
    first, first_key = places_of_map(tl.program_id(0) // tiles, m, height * width)
    tile = tl.program_id(0) % tiles
    x0, y0 = (tile % segments) * SEGMENT, (tile // segments) * ROWS
    j, j_inside = tile_of_keys(x0, y0, width, height, ROWS, SEGMENT)
    x = x0 + tl.arange(0, SEGMENT)
    col, row = col_ptr + first * width, row_ptr + first * height
    q_map, grad_map = q_ptr + first * D, grad_ptr + first * DV
    k = load_rows(k_ptr + first_key * D, j, j_inside, D, DP)
    v = load_rows(v_ptr + first_key * DV, j, j_inside, DV, DVP)
    dk = tl.zeros([ROWS * SEGMENT, DP], tl.float32)
    dv = tl.zeros([ROWS * SEGMENT, DVP], tl.float32)
    for i0 in range(0, m, QUERIES):
        i = i0 + tl.arange(0, QUERIES)
        inside = i < m
        q = load_rows(q_map, i, inside, D, DP)
        grad = load_rows(grad_map, i, inside, DV, DVP)
        lse = tl.load(lse_ptr + first + i, mask=inside, other=0.0)
        mean = tl.load(mean_ptr + first + i, mask=inside, other=0.0)
        col_bias = tl.trans(load_col_bias(col, i, inside, x, width)) - lse[None, :]
        row_bias = tl.trans(load_row_bias(row, i, inside, y0 + tl.arange(0, ROWS), m, height))
        bias = add_biases_transposed(col_bias, row_bias)
        p = tl.exp2(tl.dot(k, tl.trans(q), acc=bias, input_precision=PRECISION))
        dv = tl.dot(p.to(grad.dtype), grad, acc=dv, input_precision=PRECISION)
        dp = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
        ds = p * (dp - mean[None, :])
        dk = tl.dot(ds.to(q.dtype), q, acc=dk, input_precision=PRECISION)
    store_rows(dk_ptr + first_key * D, j, j_inside, dk * LN2, D, DP)
    store_rows(dv_ptr + first_key * DV, j, j_inside, dv, DV, DVP)
