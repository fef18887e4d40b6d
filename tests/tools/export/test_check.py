"""What the comparison with PyTorch finds."""

import pytest
import torch
from torch import nn

from lesa_d2.errors import ExportError
from lesa_d2.tools.export import FeaturePyramid, compare
from lesa_d2.tools.export.check import sizes_to_check

SIZES = [(2, 4, 6), (1, 8, 8)]


class Pyramid(nn.Module):
    def forward(self, image):
        return {"p2": image.float() + 1, "p3": image.float().mean((2, 3), keepdim=True)}


def broken(change):
    def run(image):
        return change(Pyramid()(image))

    return run


def test_the_same_differs_by_nothing():
    comparison = compare(Pyramid(), broken(dict), SIZES, torch.uint8)
    assert comparison.largest == 0
    lines = str(comparison).splitlines()
    assert lines[0].split() == ["images", "size", "p2", "p3"]
    assert lines[-1].split() == ["1", "8×8", "0.0e+00", "0.0e+00"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: {**out, "p3": out["p3"] * 1.001}, "is not the model: differs by up to 1.0e-03"),
        (lambda out: {**out, "p3": out["p3"] * float("nan")}, "differs by up to inf"),
        (lambda out: {**out, "p3": out["p3"].squeeze()}, "differs by up to inf"),
        (lambda out: {"p2": out["p2"]}, r"gives \['p2'\], expected \['p2', 'p3'\]"),
        (lambda out: out["p7"], "does not run on 2 images of 4×6"),
    ],
)
def test_anything_else_is_an_error(change, words):
    with pytest.raises(ExportError, match=words):
        compare(Pyramid(), broken(change), SIZES, torch.float32)


class Chaotic(Pyramid):
    """Amplifies rounding by a factor of 1e5."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.1))

    def forward(self, image):
        small = torch.sin(image.to(self.factor.dtype) * self.factor + 1e5)
        return {"p2": small}


def test_a_model_that_amplifies_rounding_is_not_blamed_on_the_file():
    model = Chaotic()

    def run(image):
        return {"p2": model(image)["p2"] * 1.01}

    with pytest.raises(
        ExportError, match=r"float32 itself is .* this model amplifies rounding.*trained weights"
    ):
        compare(model, run, SIZES, torch.float32)
    with pytest.raises(ExportError) as error:
        compare(Pyramid(), broken(lambda out: {**out, "p2": out["p2"] * 2}), SIZES, torch.float32)
    assert "amplifies" not in str(error.value)


def test_rounding_is_none():
    comparison = compare(
        Pyramid(), broken(lambda out: {k: v * (1 + 5e-5) for k, v in out.items()}), SIZES, torch.uint8
    )
    assert 1e-5 < comparison.largest < 1e-4


def test_sizes_differ_from_the_traced_one(model):
    sizes = sizes_to_check(FeaturePyramid(model), (256, 320))
    assert sizes[0] == (1, 256, 320)
    shapes = {(height, width) for _, height, width in sizes}
    assert len(shapes) == len(sizes)
    assert {images for images, *_ in sizes} == {1, 2, 3}
    assert {(h > w) - (h < w) for h, w in shapes} == {-1, 0, 1}  # tall, square, wide
    assert all(side % 32 == 0 and side >= 96 for shape in shapes for side in shape)
