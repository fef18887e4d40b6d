import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from lesa_d2.data import StuffMapper, coco_with_stuff_maps
from lesa_d2.data.registration import register_dataset
from lesa_d2.errors import DatasetError

HEIGHT, WIDTH = 24, 32


def write_map(file, size=(HEIGHT, WIDTH), mode="L"):
    values = np.arange(np.prod(size), dtype=np.uint8).reshape(size) % 7
    Image.fromarray(values).convert(mode).save(file)
    return values


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """A registered data set of two pictures, and the folder for their maps."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = []
    for index in range(2):
        file = tmp_path / f"00{index}.jpg"
        Image.new("RGB", (WIDTH, HEIGHT)).save(file)
        size = {"height": HEIGHT, "width": WIDTH}
        records.append({"file_name": str(file), "image_id": index, "annotations": [], **size})
    name = f"pictures_{tmp_path.name}"
    register_dataset(name, lambda: records, thing_classes=["cat", "dog"])
    (tmp_path / "maps").mkdir()
    return name, tmp_path / "maps"


def test_records_get_their_maps(coco):
    name, folder = coco
    for index in range(2):
        write_map(folder / f"00{index}.png")
    new = coco_with_stuff_maps(name, "maps")
    assert new == f"{name}_stuff"
    assert coco_with_stuff_maps(name, "maps") == new  # configs are built more than once
    assert [r["sem_seg_file_name"] for r in DatasetCatalog.get(new)] == [
        str(folder / f"00{index}.png") for index in range(2)
    ]
    assert "sem_seg_file_name" not in DatasetCatalog.get(name)[0]
    metadata = MetadataCatalog.get(new)
    assert metadata.thing_classes == ["cat", "dog"]
    assert (metadata.sem_seg_root, metadata.ignore_label) == (str(folder), 255)


def test_images_without_a_map_are_counted_and_one_is_named(coco):
    name, folder = coco
    write_map(folder / "000.png")
    with pytest.raises(DatasetError, match=r"1 of 2 images of .* have no stuff map, the first is .*001\.png"):
        DatasetCatalog.get(coco_with_stuff_maps(name, "maps"))
    with pytest.raises(DatasetError, match=r"2 of 2 images .*gone/000\.png"):
        DatasetCatalog.get(coco_with_stuff_maps(name, "gone"))


def test_unknown_data_set():
    with pytest.raises(DatasetError, match="'spam' is not registered"):
        coco_with_stuff_maps("spam", "maps")


def mapper(*augmentations):
    return StuffMapper(True, augmentations=list(augmentations), image_format="RGB")


def record(coco, file):
    return {**DatasetCatalog.get(coco[0])[0], "sem_seg_file_name": str(file)}


def test_maps_are_resized_and_flipped_with_their_image(coco):
    file = coco[1] / "000.png"
    values = write_map(file)
    mapped = mapper(T.Resize((2 * HEIGHT, 2 * WIDTH)), T.RandomFlip(prob=1.0))(record(coco, file))
    assert mapped["image"].shape == (3, 2 * HEIGHT, 2 * WIDTH)
    expected = values.repeat(2, 0).repeat(2, 1)[:, ::-1]  # nearest
    assert torch.equal(mapped["sem_seg"], torch.tensor(expected.astype("int64")))
    assert mapped["sem_seg_file_name"] == str(file)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: write_map(file, (HEIGHT, 10)), r"32×24 pixels .*, got mode L, 10×24 pixels"),
        (lambda file: write_map(file, mode="RGB"), "8-bit grey values, .* got mode RGB"),
        (lambda file: write_map(file, mode="P"), "got mode P"),
        (lambda file: file.write_bytes(b"spam"), "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: None, "does not exist"),
    ],
)
def test_bad_maps_are_named(coco, spoil, message):
    file = coco[1] / "bad.png"
    spoil(file)
    with pytest.raises(DatasetError, match=rf"stuff map .*bad\.png.*{message}"):
        mapper()(record(coco, file))


def test_a_truncated_map_is_named(coco):
    file = coco[1] / "bad.png"
    write_map(file)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"stuff map .*bad\.png cannot be read"):
        mapper()(record(coco, file))


def test_a_record_without_a_map_is_mapped_as_ever(coco):
    mapped = mapper()(DatasetCatalog.get(coco[0])[0])
    assert "sem_seg" not in mapped
    assert mapped["image"].shape == (3, HEIGHT, WIDTH)
