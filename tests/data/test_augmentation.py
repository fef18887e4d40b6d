import numpy as np
import pytest
from detectron2.data import transforms as T

from lesa_d2.data import RandomSquareResize
from lesa_d2.errors import ConfigError


def test_sides_come_from_either_range():
    resize = RandomSquareResize([[8, 16], [16, 32]])
    image = np.zeros((20, 30, 3), np.uint8)
    np.random.seed(0)
    sides = []
    for _ in range(400):
        transform = resize.get_transform(image)
        height, width, _ = transform.apply_image(image).shape
        assert height == width
        sides.append(height)
    assert (min(sides), max(sides)) == (8, 32)  # both ends included
    assert np.mean(np.array(sides) <= 16) == pytest.approx(0.5, abs=0.08)
    assert len(set(sides)) == 25


def test_boxes_and_maps_follow():
    image = T.AugInput(
        np.zeros((20, 40, 3), np.uint8), boxes=np.array([[0, 0, 20.0, 10]]), sem_seg=np.eye(20, 40)
    )
    RandomSquareResize([[10, 10]])(image)
    assert image.image.shape == (10, 10, 3)
    assert image.boxes.tolist() == [[0, 0, 5, 5]]
    assert image.sem_seg.shape == (10, 10)


@pytest.mark.parametrize("ranges", [[], [[5]], [[9, 8]], [[0, 8]], [[1, 8]]])
def test_ranges_that_make_no_sense(ranges):
    with pytest.raises(ConfigError, match="pairs of pixels"):
        RandomSquareResize(ranges)


def test_configs_can_be_logged():
    assert repr(RandomSquareResize([[512, 1024]])) == "RandomSquareResize(ranges=[[512, 1024]])"
