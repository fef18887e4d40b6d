import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import CountCalls

from lesa_d2.layers.positions import (
    DecomposedPositions,
    FlattenedPositions,
    by_pairs,
    offset_index,
    parse_size,
    resize_offsets,
)


def test_offset_index_by_hand():
    assert offset_index(3, torch.device("cpu")).tolist() == [[2, 3, 4], [1, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("from_key", [False, True])
@pytest.mark.parametrize(("side", "dim"), [(1, 0), (4, 0), (5, 1), (3, 2)])
def test_pairs_are_those_of_the_index_with_the_same_gradient(monkeypatch, side, dim, from_key, is_open):
    monkeypatch.setattr("lesa_d2.layers.positions.sizes_are_open", lambda: is_open)
    shape = [2, 3, 4]
    shape[dim] = 2 * side - 1
    table = torch.randn(shape, dtype=torch.double, requires_grad=True)
    index = offset_index(side, table.device)
    index = index.T if from_key else index
    expected = table[(slice(None),) * dim + (index,)]
    pairs = by_pairs(table, side, dim, from_key)
    assert torch.equal(pairs, expected)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((pairs * weight).sum(), table),
        torch.autograd.grad((expected * weight).sum(), table),
    )


def test_the_backward_pass_of_positions_sorts_no_index():
    calls = set()
    for positions in (DecomposedPositions(2, 4), FlattenedPositions(2, 2, 3)):
        for size in ((4, 4), (3, 3), (2, 5)):
            with CountCalls() as counted:
                used = positions.embeddings(size) if hasattr(positions, "embeddings") else positions(size)
                sum(part.square().sum() for part in used).backward()
            calls |= set(counted.calls)
    assert "unfold_backward" in calls
    assert not {name for name in calls if "sort" in name or name.startswith(("index_put", "_index_put"))}


@pytest.mark.parametrize("bad", [0, -1, True, None, 4.0, (4,), (4, 0), (4, 4, 4), (2.5, 4), "44"])
def test_bad_sizes_are_named(bad):
    with pytest.raises(ValueError, match="a size must be"):
        parse_size(bad)


def test_resize_keeps_zero_offset_and_extremes():
    table = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])  # F = 3, the value is the offset
    torch.testing.assert_close(
        resize_offsets(table, 5, 0).squeeze(1), torch.tensor([-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2])
    )
    torch.testing.assert_close(resize_offsets(table, 2, 0).squeeze(1), torch.tensor([-2.0, 0.0, 2.0]))
    assert resize_offsets(table, 1, 0).tolist() == [[0.0]]
    assert resize_offsets(table, 3, 0) is table


def test_resize_from_one_place_repeats_it():
    assert resize_offsets(torch.tensor([[7.0]]), 3, 0).flatten().tolist() == [7.0] * 5


@pytest.mark.parametrize(("made_for", "size"), [((3, 4), (3, 4)), (4, (3, 5)), (2, (5, 1)), (1, (2, 3))])
def test_decomposed_bias_by_loops(made_for, size):
    positions = DecomposedPositions(2, made_for).double()
    height, width = size
    q = torch.randn(1, 2, height * width, 2, dtype=torch.double)
    col_bias, row_bias = positions(q, size)
    rw = resize_offsets(positions.rel_width, width, 0)
    rh = resize_offsets(positions.rel_height, height, 0)
    for i in range(height * width):
        yi, xi = divmod(i, width)
        for x in range(width):
            torch.testing.assert_close(col_bias[0, :, i, x], q[0, :, i] @ rw[x - xi + width - 1])
        for y in range(height):
            torch.testing.assert_close(row_bias[0, :, i, y], q[0, :, i] @ rh[y - yi + height - 1])


def test_flattened_pairs_by_loops():
    positions = FlattenedPositions(1, 2, (2, 3))
    rq, rk, rv = positions((2, 3))
    places = 6
    for i in range(places):
        for j in range(places):
            torch.testing.assert_close(rq[:, i, j], positions.table[:1, i - j + places - 1])
            torch.testing.assert_close(rk[:, i, j], positions.table[1:2, j - i + places - 1])
            torch.testing.assert_close(rv[:, i, j], positions.table[2:, i - j + places - 1])


def test_flattened_grid_path_equals_flat_path_at_its_own_size():
    positions = FlattenedPositions(2, 4, (3, 2))
    flat = positions((3, 2))
    height, width = positions.size
    grid = positions.grid()
    for i in range(6):
        for j in range(6):
            dy, dx = i // width - j // width, i % width - j % width
            expected = torch.cat([flat[0][:, i, j], flat[1][:, j, i], flat[2][:, i, j]])
            torch.testing.assert_close(grid[:, dy + height - 1, dx + width - 1], expected)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 4), (1, 1)])
def test_flattened_serves_other_sizes_by_dy_dx(size):
    positions = FlattenedPositions(1, 1, (3, 3))
    height, width = size
    rq, rk, _ = positions(size)
    grid = resize_offsets(resize_offsets(positions.grid(), height, 1), width, 2)
    for i in range(height * width):
        for j in range(height * width):
            dy, dx = i // width - j // width, i % width - j % width
            torch.testing.assert_close(rq[0, i, j], grid[0, dy + height - 1, dx + width - 1])
            torch.testing.assert_close(rk[0, i, j], grid[1, height - 1 - dy, width - 1 - dx])


@settings(max_examples=50, deadline=None)
@given(made_for=st.integers(1, 9), side=st.integers(1, 9))
def test_resized_tables_keep_linear_functions_of_the_offset(made_for, side):
    """Interpolation is exact for a table that is linear in its offset, up to the stretch of the axis."""
    offsets = torch.arange(1 - made_for, made_for, dtype=torch.double)
    resized = resize_offsets(offsets[:, None], side, 0).squeeze(1)
    reach = made_for - 1 if side > 1 else 0
    expected = torch.linspace(-reach, reach, 2 * side - 1, dtype=torch.double)
    torch.testing.assert_close(resized, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_resized_as_exactly_as_they_can_be(dtype):
    table = torch.randn(127, 4).to(dtype)
    error = (resize_offsets(table, 84, 0).float() - resize_offsets(table.float(), 84, 0)).abs().max()
    assert error <= torch.finfo(dtype).eps * table.abs().max()
