"""Pictures of every kind mean the same to training, evaluation, classifier, check and demo, or are refused by all."""

import io
import itertools
import os
import signal
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data import detection_utils as utils
from PIL import Image

from lesa_d2.data import ImageMapper
from lesa_d2.data.loader import build_loader, build_train_loader, checked
from lesa_d2.data.pictures import check_picture, list_pictures, read_picture
from lesa_d2.errors import DatasetError, LesaError
from lesa_d2.tools.analysis import ImageReader


@pytest.fixture(autouse=True)
def _no_waiting():
    """A reader that waits at a pipe fails."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits at a pipe"))
    signal.alarm(60)
    yield
    signal.alarm(0)


def detector_mapper(training=False):
    return DatasetMapper(training, augmentations=[], image_format="RGB")


def as_mapped(mapper, file):
    return mapper({"file_name": str(file), "label": 0})["image"].permute(1, 2, 0).numpy()


def own_mapper(record):
    """What tutorials write."""
    image = utils.read_image(record["file_name"], "RGB")
    return {"image": torch.as_tensor(image.transpose(2, 0, 1).copy())}


class Model(torch.nn.Module):
    def preprocess(self, batch):
        return batch["image"]


READERS = {
    "read_picture": read_picture,
    "BGR": lambda file: read_picture(file, "BGR")[:, :, ::-1],
    "classifier": lambda file: as_mapped(ImageMapper(lambda image: image), file),
    "classifier of BGR": lambda file: as_mapped(ImageMapper(lambda x: x, "BGR"), file)[:, :, ::-1],
    "detectron2's mapper": lambda file: as_mapped(checked(detector_mapper()), file),
    "a mapper of one's own": lambda file: as_mapped(checked(own_mapper), file),
    "inspect": lambda file: ImageReader(Model(), own_mapper).read(file).picture,
}


@pytest.fixture(params=[*READERS])
def read(request):
    return READERS[request.param]


def photo(height=37, width=53, seed=0):
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.linspace(0, 5, height)[:, None, None] + np.linspace(0, 7, width)[:, None] + [0, 1, 2])
    return np.clip(127 + 100 * waves + rng.normal(0, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def save(file, image, **options):
    image.save(file, **options)
    return file


def write_accepted(folder):
    """Every kind that is read, by name."""
    image = Image.fromarray(photo())
    for number, (quality, subsampling, progressive) in enumerate(
        itertools.product((30, 95), (0, 1, 2), (False, True))
    ):
        options = dict(quality=quality, subsampling=subsampling, progressive=progressive)
        save(folder / f"{number}.jpg", image, **options)
    for orientation in range(1, 10):
        save(folder / f"turned{orientation}.jpg", image, exif=exif(orientation))
        save(folder / f"turned{orientation}.png", image, exif=exif(orientation))
    save(folder / "turned.webp", image, exif=exif(6), lossless=True)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        save(folder / f"{mode}.png", image.convert(mode))
    save(folder / "grey.jpg", image.convert("L"))
    save(folder / "cmyk.jpg", image.convert("CMYK"))
    save(folder / "cmyk.tif", image.convert("CMYK"))
    save(folder / "YCbCr.tif", image.convert("YCbCr"))
    save(folder / "clear.png", image.quantize(16), transparency=bytes(range(16)))
    save(folder / "one.jpg", image.resize((1, 1)))
    save(folder / "two.mpo", image, save_all=True, append_images=[image.rotate(180)])
    frames = [image.rotate(angle).quantize(64) for angle in (0, 90, 180)]
    save(folder / "animated.gif", frames[0], save_all=True, append_images=frames[1:])
    save(folder / "animated.png", image, save_all=True, append_images=[image.rotate(90)])
    for suffix in ("bmp", "ppm", "tif", "webp"):
        save(folder / f"plain.{suffix}", image)
    save(folder / "a jpeg by name.png", image, format="JPEG")
    deep = photo().astype(np.uint16) * 257
    cv2.imwrite(str(folder / "colour of 16 bits.png"), deep[:, :, ::-1])
    cv2.imwrite(str(folder / "colour of 16 bits.tif"), deep[:, :, ::-1])
    (folder / "zeros behind.jpg").write_bytes((folder / "0.jpg").read_bytes() + bytes(100))
    (folder / "link.jpg").symlink_to(folder / "0.jpg")
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_the_pixels_of_everything_accepted_are_the_same_everywhere(tmp_path, read):
    for file in write_accepted(tmp_path):
        expected = utils.read_image(str(file), "RGB")
        pixels = read(file)
        assert pixels.dtype == np.uint8, file
        assert np.array_equal(pixels, expected), file
        assert check_picture(file) == expected.shape[1::-1], file


def test_colours_of_16_bits_give_their_upper_8(tmp_path, read):
    cv2.imwrite(str(tmp_path / "deep.png"), photo()[:, :, ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read(tmp_path / "deep.png"), photo())


def test_pixels_are_contiguous_and_can_be_written(tmp_path):
    for name, channels in itertools.product(("a.jpg", "a.png"), ("RGB", "BGR")):
        pixels = read_picture(save(tmp_path / name, Image.fromarray(photo())), channels)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


def bomb(file):
    """A PNG whose header states 30000×30000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + 30000 // 8)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(row * 100))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b""))


def jpeg_bomb(file):
    """A JPEG whose header states 60000×60000 pixels."""
    Image.new("L", (8, 8)).save(file, "JPEG")
    data = bytearray(file.read_bytes())
    where = data.index(b"\xff\xc0") + 5
    data[where : where + 4] = struct.pack(">HH", 60000, 60000)
    file.write_bytes(data)


def deep(mode, suffix):
    def write(file):
        stream = io.BytesIO()
        Image.new(mode, (20, 16), 900).save(stream, suffix)
        file.write_bytes(stream.getvalue())

    return write


def truncated(suffix):
    def write(file):
        stream = io.BytesIO()
        Image.fromarray(photo()).save(stream, suffix)
        file.write_bytes(stream.getvalue()[: int(0.6 * len(stream.getvalue()))])

    return write


REFUSED = {
    "missing": (lambda file: None, "does not exist; put the picture there"),
    "dangling link": (lambda file: file.symlink_to("gone.jpg"), "link to gone.jpg, which is not there"),
    "folder": (lambda file: file.mkdir(), "it is a folder"),
    "pipe": (os.mkfifo, "it is a pipe or a device"),
    "zero bytes": (lambda file: file.touch(), "it is empty"),
    "text": (lambda file: file.write_text("spam"), "no known format"),
    "drawing": (lambda file: Image.new("L", (8, 8)).save(file, "EPS"), "EPS is a drawing"),
    "truncated JPEG": (truncated("JPEG"), "truncated|Truncated"),
    "truncated PNG": (truncated("PNG"), "truncated"),
    "bomb": (bomb, "900000000 pixels. exceeds limit"),
    "bomb of a JPEG": (jpeg_bomb, "3600000000 pixels. exceeds limit"),
    "16 bits": (deep("I;16", "PNG"), "more than 8 bits .*'I;16'.*convert it to 8 bits"),
    "16 bits, TIFF": (deep("I;16B", "TIFF"), "more than 8 bits"),
    "32 bits": (deep("I", "TIFF"), "more than 8 bits"),
    "float": (deep("F", "TIFF"), "more than 8 bits .*'F'"),
    "turned TIFF": (
        lambda file: Image.new("RGB", (9, 8)).save(file, "TIFF", exif=exif(3)),
        "turned by its orientation tag; save it upright",
    ),
}


@pytest.mark.parametrize("kind", [*REFUSED])
def test_what_is_no_picture_is_named_everywhere(tmp_path, read, kind):
    write, reason = REFUSED[kind]
    write(tmp_path / "bad.jpg")
    with pytest.raises(LesaError, match=rf"bad\.jpg.*({reason})"):
        read(tmp_path / "bad.jpg")
    with pytest.raises(DatasetError, match=rf"bad\.jpg.*({reason})"):
        check_picture(tmp_path / "bad.jpg")


# ---------------------------------------------------------------------------------------------- loaders


def training_loader(record, mapper, workers):
    return build_loader(
        L(build_train_loader)(dataset=[record], mapper=mapper, total_batch_size=1, num_workers=workers)
    )


def evaluation_loader(record, mapper, workers):
    return build_loader(L(build_detection_test_loader)(dataset=[record], mapper=mapper, num_workers=workers))


@pytest.mark.parametrize("loader", [training_loader, evaluation_loader])
@pytest.mark.parametrize(
    ("workers", "mapper"),
    [(0, detector_mapper()), (1, detector_mapper()), (0, own_mapper)],
    ids=["in this process", "in a worker", "mapper of one's own"],
)
def test_loaders_of_any_mapper_name_a_broken_file(tmp_path, loader, workers, mapper):
    REFUSED["truncated PNG"][0](tmp_path / "broken.png")
    batches = loader({"file_name": str(tmp_path / "broken.png")}, mapper, workers)
    with pytest.raises(DatasetError, match=r"broken\.png cannot be read as an image: .*truncated"):
        next(iter(batches))


def test_a_file_that_breaks_after_the_check_of_its_header_is_named(tmp_path):
    file = save(tmp_path / "a.png", Image.fromarray(photo()))

    class Late(DatasetMapper):
        def __call__(self, record):
            REFUSED["truncated PNG"][0](file)
            return super().__call__(record)

    with pytest.raises(DatasetError, match=r"a\.png cannot be read as an image: .*truncated"):
        checked(Late(False, augmentations=[], image_format="RGB"))({"file_name": str(file)})


def test_a_mapper_that_reads_other_files_is_left_alone(tmp_path):
    """Arrays, keys of a data base, and 16 bits where the mapper says that it knows them."""
    np.save(tmp_path / "a.npy", np.full((3, 4, 4), 7, np.uint8))
    assert checked(lambda record: np.load(record["file_name"]))({"file_name": tmp_path / "a.npy"}).max() == 7
    assert checked(lambda record: record["file_name"][-1])({"file_name": "lmdb/key/5"}) == "5"
    assert checked(lambda record: record)(("no", "dict")) == ("no", "dict")
    REFUSED["16 bits"][0](tmp_path / "deep.png")

    class Deep:
        checks_files = True

        def __call__(self, record):
            return int(cv2.imread(record["file_name"], cv2.IMREAD_UNCHANGED).max())

    assert checked(Deep())({"file_name": str(tmp_path / "deep.png")}) == 900


def test_mistakes_of_a_mapper_stay_its_own(tmp_path):
    file = save(tmp_path / "a.png", Image.fromarray(photo()))
    with pytest.raises(KeyError, match="spam"):
        checked(lambda record: record["spam"])({"file_name": str(file)})
    with pytest.raises(
        DatasetError, match=r"gone\.png does not exist.*mapper failed with .*KeyError: 'spam'"
    ):
        checked(lambda record: record["spam"])({"file_name": str(tmp_path / "gone.png")})


def test_a_label_map_that_cannot_be_read_is_named_beside_its_picture(tmp_path):
    file = save(tmp_path / "a.png", Image.fromarray(photo()))
    (tmp_path / "map.png").write_text("spam")
    record = {"file_name": str(file), "sem_seg_file_name": str(tmp_path / "map.png")}
    with pytest.raises(DatasetError, match=r"a\.png or .*map\.png cannot be read: cannot identify"):
        checked(detector_mapper(training=True))(record)


def test_training_says_that_it_can_be_continued(tmp_path):
    loader = training_loader({"file_name": str(tmp_path / "gone.jpg")}, detector_mapper(), 0)
    with pytest.raises(DatasetError, match=r"gone\.jpg does not exist.* then continue with --resume"):
        next(iter(loader))


# ---------------------------------------------------------------------------------------------- folders


def test_pictures_of_a_folder_and_what_is_left_out(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a.jpg", "b.txt", "README", "._a.jpg", ".cache/c.jpg", "b/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, left_out = list_pictures(tmp_path)
    assert files == [str(tmp_path / name) for name in ("a.jpg", "b/1.PNG", "b/2.jpg")]
    assert left_out == {"with a leading dot": 3, "with the suffix .txt": 1, "without a suffix": 1}
