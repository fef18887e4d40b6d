"""Folders of pictures to classify."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lesa_d2.data import IMAGE_CLASSES, ImageMapper, generate_shape_images, image_folder, shape_images
from lesa_d2.data.images import build_image_test_loader, describe_images, read_image
from lesa_d2.data.loader import build_train_loader
from lesa_d2.errors import ConfigError, DatasetError


def picture(file, colour=(200, 100, 50), size=(12, 8)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


@pytest.fixture
def folder(tmp_path):
    """Three classes; ten pictures to train on and three to evaluate."""
    for index in range(10):
        picture(tmp_path / "train" / ["cat", "dog", "ox"][index % 3] / f"{index}.png", (20 * index, 0, 0))
    for name in ("cat", "dog", "ox"):
        picture(tmp_path / "val" / name / "0.png")
    return tmp_path


def test_records_and_classes(folder):
    records = image_folder(str(folder), "train")
    assert records.classes == ["cat", "dog", "ox"]
    assert len(records) == 10
    assert records[0] == {"file_name": str(folder / "train/cat/0.png"), "label": 0}
    assert [record["label"] for record in records] == [0] * 4 + [1] * 3 + [2] * 3


def test_what_is_left_out_is_counted(folder):
    """What systems and tools leave behind is neither a picture nor a class."""
    first = image_folder(str(folder), "train")
    assert describe_images(first) == "10"
    for name in ("._cat", ".ipynb_checkpoints", "cat/.ipynb_checkpoints"):
        picture(folder / "train" / name / "x.png")
    for name in ("cat/._0.png", "dog/.DS_Store", "dog/notes.txt", "dog/Thumbs.db", "beside.jpg", ".hidden"):
        (folder / "train" / name).write_bytes(b"")
    records = image_folder(str(folder), "train")
    assert records == first
    assert records.classes == first.classes
    assert describe_images(records) == (
        "10 (left out: 1 beside the folders of classes, 6 with a leading dot, 1 with the suffix .db, "
        "1 with the suffix .txt)"
    )


def test_a_folder_that_changes_is_read_anew(folder):
    assert len(image_folder(str(folder), "train")) == 10
    picture(folder / "train/cat/new.png")
    assert len(image_folder(str(folder), "train")) == 11
    picture(folder / "train/cat/deeper/new.png")
    assert len(image_folder(str(folder), "train")) == 12


def test_order_is_that_of_torchvision(folder):
    """Seeds choose the same pictures as with torchvision's ImageFolder."""
    for name in ("cat/b/1.png", "cat/a/2.png", "cat/10.png", "ox/b c/1.png", "ox/b/1.png"):
        picture(folder / "train" / name)
    records = image_folder(str(folder), "train")
    assert [(r["file_name"], r["label"]) for r in records] == ImageFolder(folder / "train").samples


def test_default_folder_is_among_the_data_sets(folder, monkeypatch, tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    (root / "imagenet").symlink_to(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert len(image_folder(None, "val")) == 3


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "val").rename(root / "valid"), r"no folder .*val; expected .*DIR/val/CLASS"),
        (lambda root: (root / "val/ox").rename(root / "val/cow"), "same classes.* cow, ox"),
        (lambda root: (root / "train/dog/1.png").rename(root / "1.png"), None),
        (
            lambda root: [file.rename(root / "train/dog/._1.png") for file in (root / "train/dog").iterdir()],
            r"train: 1 of 3 classes have no image: dog \(left out: 1 with a leading dot\); put images there",
        ),
        (lambda root: [path.rename(root / path.name) for path in (root / "val").iterdir()], "cat, dog, ox"),
        (
            lambda root: [
                path.rename(root / f"{split} {path.name}")
                for split in ("train", "val")
                for path in (root / split).iterdir()
            ],
            "train holds no folder of a class",
        ),
    ],
)
def test_wrong_folders(folder, break_it, message):
    break_it(folder)
    if message is None:  # one picture fewer is no error
        assert len(image_folder(str(folder), "train")) == 9
        return
    with pytest.raises(DatasetError, match=message):
        _ = [image_folder(str(folder), split) for split in ("train", "val")]


def test_pictures_are_read_as_rgb_whatever_they_are(tmp_path):
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6] = (250, 10, 60)
    image = Image.fromarray(pixels)
    palette = image.quantize(2)
    for variant, name in ((image, "a.png"), (image.convert("RGBA"), "b.png"), (palette, "c.png")):
        variant.save(tmp_path / name)
        assert read_image(str(tmp_path / name)).shape == (3, 8, 12)
        assert read_image(str(tmp_path / name))[:, 0, 0].tolist() == [250, 10, 60]
    image.convert("L").save(tmp_path / "d.jpg")
    red, green, blue = read_image(str(tmp_path / "d.jpg"))
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_unusual_pictures_are_read(tmp_path):
    """CMYK, animations, and other formats than JPEG."""
    red = Image.new("RGB", (12, 8), (250, 10, 60))
    frames = [red, Image.new("RGB", (12, 8), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    red.convert("CMYK").save(tmp_path / "a.jpg")
    for name in ("a.bmp", "a.tif", "a.ppm", "a.webp"):
        red.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    for file in tmp_path.iterdir():
        image = read_image(str(file))
        assert image.dtype == torch.uint8, file
        assert image.shape == (3, 8, 12), file
        error = (image[:, 0, 0].int() - torch.tensor([250, 10, 60])).abs().max()
        assert error <= (12 if file.suffix == ".jpg" else 0), file


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (12, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(str(tmp_path / "a.jpg")).shape == (3, 12, 8)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    (tmp_path / "b.jpg").write_bytes(b"")
    for name, reason in (("a.jpg", "no known format"), ("b.jpg", "empty"), ("missing.jpg", "does not exist")):
        with pytest.raises(DatasetError, match=f"{name}.* {reason}"):
            read_image(str(tmp_path / name))


def test_mapper_gives_the_channel_order_that_the_model_wants(tmp_path):
    picture(tmp_path / "a.png", (250, 10, 60))
    record = {"file_name": str(tmp_path / "a.png"), "label": 7}
    resize = v2.Resize([4, 4])
    for order, expected in (("RGB", [250, 10, 60]), ("BGR", [60, 10, 250])):
        mapped = ImageMapper(resize, order)(record)
        assert mapped["label"] == 7
        assert mapped["image"].dtype == torch.uint8
        assert mapped["image"][:, 0, 0].tolist() == expected


def loader(folder, **options):
    crop = v2.RandomResizedCrop([4, 4], antialias=True)
    records = image_folder(str(folder), "train")
    return build_train_loader(
        records, mapper=ImageMapper(crop), stacked=True, **{"total_batch_size": 4, **options}
    )


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def test_batches_are_stacked_and_a_function_of_seed_and_position(folder):
    whole = take(loader(folder, seed=3), 6)
    assert whole[0]["image"].shape == (4, 3, 4, 4)
    assert whole[0]["label"].shape == (4,)
    continued = take(loader(folder, seed=3, first_iter=2, num_workers=1), 4)
    torch.testing.assert_close(continued, whole[2:])
    other = take(loader(folder, seed=4), 6)
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(whole, other, strict=True))


def test_evaluation_sees_every_picture_once(folder):
    records = image_folder(str(folder), "train")
    batches = build_image_test_loader(records, mapper=ImageMapper(v2.Resize([4, 4])), batch_size=4)
    assert [len(batch["label"]) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0] * 4 + [1] * 3 + [2] * 3


# ------------------------------------------------------------------------------------ generated pictures


def test_generated_pictures_are_a_function_of_their_arguments(tmp_path):
    for name in ("a", "b"):
        generate_shape_images(tmp_path / name, num_images=250, image_size=32, seed=1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jpg"))
    assert len([file for file in files if file.parts[0] == "train"]) == 250
    assert len([file for file in files if file.parts[0] == "val"]) == 20
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    contents = {(tmp_path / "a" / file).read_bytes() for file in files}
    assert len(contents) == len(files)  # train and val share none


def test_generated_splits_load_and_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    arguments = {"num_images": 180, "image_size": 32, "seed": 0}
    records = shape_images(split="train", **arguments)
    assert sorted(records.classes) == sorted(IMAGE_CLASSES)
    assert [record["label"] for record in records] == sorted(list(range(12)) * 15)
    first = {record["file_name"]: read_image(record["file_name"]) for record in records}
    assert len(shape_images(split="val", **arguments)) == 14
    for name, image in first.items():
        assert torch.equal(read_image(name), image)


def test_generated_pictures_show_their_class(tmp_path):
    """Stripes and checkers vary more than a gradient does, and another shape is another picture."""
    from lesa_d2.data.shapes import SHAPE_CLASSES, STUFF_CLASSES, draw_object

    def spread(texture):
        pictures = [
            draw_object(np.random.default_rng(seed), 64, 0, STUFF_CLASSES.index(texture))
            for seed in range(20)
        ]
        return np.mean([np.abs(np.diff(picture[:6].astype(float), axis=1)).mean() for picture in pictures])

    assert spread("stripes") > 1.3 * spread("gradient")
    assert spread("checker") > 1.3 * spread("gradient")
    star, square = (
        draw_object(np.random.default_rng(5), 64, SHAPE_CLASSES.index(name), 0) for name in ("star", "square")
    )
    assert (star != square).any()


def test_generated_pictures_refuse_what_they_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="image_size"):
        generate_shape_images(tmp_path / "set", num_images=32, image_size=8, seed=0)
    with pytest.raises(ConfigError, match="num_images"):
        generate_shape_images(tmp_path / "set", num_images=149, image_size=32, seed=0)
    generate_shape_images(tmp_path / "set", num_images=150, image_size=32, seed=0)
    with pytest.raises(DatasetError, match="holds something else"):
        generate_shape_images(tmp_path / "set", num_images=150, image_size=32, seed=1)
