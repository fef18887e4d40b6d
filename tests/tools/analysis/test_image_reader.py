from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from torch import nn

from lesa_d2.errors import LesaError
from lesa_d2.tools.analysis import ImageReader, find_images


class Detector(nn.Module):
    """Pads to a multiple of 32, as detectors do."""

    def preprocess_image(self, inputs):
        image = inputs[0]["image"].float() / 255
        height, width = image.shape[1:]
        return SimpleNamespace(tensor=nn.functional.pad(image, (0, -width % 32, 0, -height % 32))[None])


class Classifier(nn.Module):
    def preprocess(self, batch):
        return batch["image"].float() / 255


def crop_mapper(item):
    """Half as large, then the middle 32×32."""
    image = read_image(item["file_name"], "RGB")
    image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - 32) // 2, (image.shape[1] - 32) // 2
    image = image[top : top + 32, left : left + 32]
    return {"image": torch.from_numpy(image.copy()).permute(2, 0, 1), "label": item["label"]}


def detector_reader(*augmentations, channels="RGB"):
    mapper = DatasetMapper(is_train=False, augmentations=list(augmentations), image_format=channels)
    return ImageReader(Detector(), mapper, channels)


@pytest.fixture
def photo(tmp_path):
    """120 wide, 80 high; pure red but for one green dot at (90, 20)."""
    image = np.zeros((80, 120, 3), np.uint8)
    image[:, :, 2] = 255
    image[18:23, 88:93] = (0, 255, 0)
    file = tmp_path / "photo.png"
    cv2.imwrite(str(file), image)
    return file


def test_files_and_folders_in_order_and_once(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "c.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png/d.jpg").touch()
    found = find_images([tmp_path / "c.jpg", tmp_path])
    assert [file.name for file in found] == ["c.jpg", "a.png", "b.JPG", "d.jpg"]


def test_no_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LesaError, match=rf"expected images \(.jpg.* found none in {tmp_path}"):
        find_images([tmp_path])
    with pytest.raises(LesaError, match=r"no file or folder .*missing"):
        find_images([tmp_path / "missing"])


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_an_unreadable_image_is_named(tmp_path, content):
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(LesaError, match=r"bad.png cannot be read as an image"):
        detector_reader().read(file)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_picture_is_what_the_mapper_made(photo, channels):
    seen = detector_reader(T.Resize((40, 60)), channels=channels).read(photo)
    assert seen.file_size == (120, 80)
    assert seen.picture.shape == (40, 60, 3)
    assert seen.picture[0, 0].tolist() == [255, 0, 0]
    assert seen.batch.shape == (1, 3, 64, 64)


def dot(picture):
    """Centre (x, y) of what is green."""
    ys, xs = np.nonzero(picture[:, :, 1] > 127)
    return xs.mean() + 0.5, ys.mean() + 0.5


@pytest.mark.parametrize(
    "augmentations",
    [
        [],
        [T.Resize((200, 300))],
        [T.Resize((57, 43))],
        [T.ResizeShortestEdge(160, 400), T.RandomFlip(prob=1.0)],
        [T.RandomFlip(prob=1.0, horizontal=False, vertical=True)],
    ],
    ids=["as it is", "larger", "another shape", "flipped", "upside down"],
)
def test_a_position_is_followed_to_where_the_mapper_puts_it(photo, augmentations):
    reader = detector_reader(*augmentations)
    seen = reader.read(photo)
    assert reader.locate(seen, (90.5, 20.5)) == pytest.approx(dot(seen.picture), abs=0.5)


def test_a_position_in_a_crop(photo):
    """Half size is 60×40; the crop begins at (14, 4)."""
    reader = ImageReader(Classifier(), crop_mapper)
    seen = reader.read(photo)
    assert seen.batch.shape == (1, 3, 32, 32)
    assert reader.locate(seen, (90.5, 20.5)) == pytest.approx((90.5 / 2 - 14, 20.5 / 2 - 4), abs=0.3)
    with pytest.raises(LesaError, match=r"cut away .* it sees x 28 to 92 and y 8 to 72"):
        reader.locate(seen, (10, 40))


@pytest.mark.parametrize("position", [(120, 0), (0, 80), (-1, 5), (5, -0.1)])
def test_a_position_outside_the_picture_is_an_error(photo, position):
    reader = detector_reader()
    with pytest.raises(LesaError, match=r"lies outside .*photo.png, which is 120 wide and 80 high"):
        reader.locate(reader.read(photo), position)


@pytest.mark.parametrize("position", [(0, 0), (119.99, 79.99)])
def test_corners_stay_inside(photo, position):
    reader = detector_reader(T.Resize((57, 43)))
    x, y = reader.locate(reader.read(photo), position)
    assert (x, y) == pytest.approx((position[0] * 43 / 120, position[1] * 57 / 80), abs=0.3)
    assert 0 <= x < 43
    assert 0 <= y < 57


def test_other_channels_than_colours_are_refused():
    with pytest.raises(LesaError, match="RGB or BGR images, got a model for 'L'"):
        ImageReader(Classifier(), crop_mapper, "L")
