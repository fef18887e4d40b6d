"""Open pictures: what is accepted, what is refused, and how the pixels are read, the same everywhere.

A picture is a regular file of a format that Pillow reads, with 8 bits a channel, or colours of 16 bits, of which the
upper 8 are taken.  Grey values of more bits and floating-point values are refused, because their range is not known:
Pillow, and so detectron2, clips them to white.  Pixels are those of detectron2's ``read_image``: turned upright as
the EXIF tag says, alpha ignored, of an animation the first picture.  File, format, size and mode are checked from the
header, before any decoder runs.
"""

import os
import stat
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
"""Of files that are taken for pictures in a folder; a file that is given by its name may have any."""

RUNS_A_PROGRAM = ("EPS", "WMF")
"""Formats of drawings, for which Pillow starts another program or asks the system."""


USUAL_PIXELS = 50_000_000
"""Larger pictures are left to Pillow, which refuses those above ``PIL.Image.MAX_IMAGE_PIXELS``."""

HIDDEN = "with a leading dot"
"""What is left out of every folder: ``._x.jpg``, ``.ipynb_checkpoints``, ``.DS_Store``."""


class PictureError(DatasetError):
    """Report a file that cannot be read as a picture."""


class MissingPictureError(PictureError):
    """Report a picture that is not there."""


class RefusedPictureError(PictureError):
    """Report a file that a decoder must not be given: it would wait, fill the memory, or give wrong pixels."""


class DeepPictureError(RefusedPictureError):
    """Report a picture of more than 8 bits whose range of values is not known."""


@contextmanager
def open_picture(file: str | Path) -> Iterator[Image.Image]:
    """Open a picture by Pillow, for its header or its pixels, after the checks that concern any picture.

    Raises:
        PictureError: names the file, the reason, and what to do; also for what is raised while the picture is open.
    """
    with _errors_about(file), _open_file(file) as stream, Image.open(stream) as image:
        _check_format(file, image)
        yield image


def check_header(file: str | Path) -> tuple[int, int]:
    """Check from its header that a file can be given to a decoder; return width and height as it stands upright.

    Raises:
        PictureError: the file is not there, not a regular file, empty, of no known format, too large, or of a kind
            that detectron2 reads wrongly.
    """
    with open_picture(file) as image:
        _check_kind(file, image)
        return _upright_size(image)


def check_picture(file: str | Path) -> tuple[int, int]:
    """Check that detectron2 reads a file as a picture; return its width and height as it stands upright.

    Raises:
        PictureError: see :func:`check_header`; or the pixels cannot be decoded.
    """
    with open_picture(file) as image:
        _check_kind(file, image)
        size = _upright_size(image)
        image.load()
        return size


def read_picture(file: str | Path, channels: str = "RGB") -> np.ndarray:
    """Return the pixels of a picture, (H, W, 3) uint8, equal to those that detectron2's ``read_image`` gives.

    OpenCV decodes JPEGs that need no conversion, in three quarters of the time; of damaged ones it reads a few that
    Pillow refuses.

    Args:
        file: of any kind that :func:`check_header` accepts.
        channels: "RGB" or "BGR".

    Raises:
        PictureError: see :func:`check_picture`.
    """
    with _errors_about(file):
        with _open_file(file) as stream:
            data = stream.read()
        size = _size_of_plain_jpeg(data)
        if size is None:
            with Image.open(BytesIO(data)) as image:
                _check_format(file, image)
                _check_kind(file, image)
                size = image.size if _is_plain_jpeg(image) else None
        pixels = _decode_jpeg(data, channels) if size else None
        if pixels is not None and pixels.shape[1::-1] == size:
            return pixels
        return np.array(read_image(str(file), channels), order="C")  # writable, without negative strides


def list_pictures(folder: str | Path) -> tuple[list[str], Counter[str]]:
    """Return the paths of the pictures of a folder, of any depth, and how many entries of which kind are left out.

    A picture has one of :data:`SUFFIXES`; it is not opened.  Names with a leading dot are left out, folders too.
    """
    files: list[str] = []
    left_out: Counter[str] = Counter()
    for root, folders, names in os.walk(folder, followlinks=True):
        left_out[HIDDEN] += sum(map(is_hidden, (*folders, *names)))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if not is_hidden(name) and suffix in SUFFIXES:
                files.append(os.path.join(root, name))
            elif not is_hidden(name):
                left_out[f"with the suffix {suffix}" if suffix else "without a suffix"] += 1
    return sorted(files, key=os.path.split), +left_out


def is_hidden(name: str) -> bool:
    """Tell whether a name is none of the user's, but of the system or of a tool."""
    return name.startswith(".")


@contextmanager
def _errors_about(file: str | Path) -> Iterator[None]:
    """Turn every error inside into a PictureError that names the file."""
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(file, "no known format") from error
    except Image.DecompressionBombError as error:  # Pillow counts the pixels of the header
        raise _refused(file, str(error), "make it smaller, or cut it into tiles") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise _unreadable(file, str(error) or type(error).__name__) from error


def _open_file(file: str | Path) -> IO[bytes]:
    """Open a file, unless it is of a kind that cannot be read, or would make the reader wait.

    Raises:
        PictureError: it is.
    """
    path = PathManager.get_local_path(str(file))
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        link = f": it is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else ""
        raise MissingPictureError(
            f"{file} does not exist{link}; put the picture there, or remove it"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise _unreadable(file, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _refused(file, "it is a pipe or a device, not a file", "replace or remove it")
    if not status.st_size:
        raise _unreadable(file, "it is empty")
    return open(path, "rb")


def _check_format(file: str | Path, image: Image.Image) -> None:
    if image.format in RUNS_A_PROGRAM:
        raise _refused(file, f"{image.format} is a drawing, not a picture", "convert it to PNG")


def _check_kind(file: str | Path, image: Image.Image) -> None:
    """Check that the pixels of an opened picture mean the same to everybody.

    Raises:
        RefusedPictureError: they do not.
    """
    if image.mode.startswith(("I", "F")):  # I;16, I;16B, I, F ...: converting them to RGB clips at 255
        raise DeepPictureError(
            f"{file} cannot be read as an image: it has more than 8 bits (Pillow's mode {image.mode!r}), and the "
            "range of its values is not known; convert it to 8 bits"
        )
    if image.format == "TIFF" and _orientation(image) in range(2, 9):
        # Pillow turns a TIFF while it decodes it, and detectron2 turns it again.
        raise _refused(file, "it is a TIFF that is to be turned by its orientation tag", "save it upright")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in range(5, 9) else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) or 1
    except Exception:  # damaged EXIF data do not matter to detectron2 either
        return 1


def _size_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG of usual size without EXIF data; None for all others, which Pillow opens.

    Pillow takes a tenth of the time of decoding to open a picture of 500×375 pixels, and this next to nothing.
    """
    position = 2 if data.startswith(b"\xff\xd8\xff") else len(data)
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, length, bits, height, width, bands = struct.unpack_from(">xBHBHHB", data, position)
        if marker in (0xC0, 0xC1, 0xC2):  # SOF: baseline, extended or progressive, by Huffman codes
            is_usual = bits == 8 and bands in (1, 3) and 0 < width * height <= USUAL_PIXELS
            return (width, height) if is_usual else None
        if not (0xDB <= marker <= 0xEF or marker in (0xC4, 0xFE)) or marker == 0xE1:  # E1: EXIF or XMP
            return None
        position += 2 + length
    return None


def _is_plain_jpeg(image: Image.Image) -> bool:
    """Tell whether the pixels of a JPEG are those of its file: of grey values or RGB, and not to be turned."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return False
    return not {"exif", "xmp"} & image.info.keys() or _orientation(image) == 1


def _decode_jpeg(data: bytes, channels: str) -> np.ndarray | None:
    """Return the pixels of a JPEG by OpenCV, as they lie in the file; None where it cannot decode it."""
    order = cv2.IMREAD_COLOR_RGB if channels == "RGB" else cv2.IMREAD_COLOR_BGR
    return cv2.imdecode(np.frombuffer(data, np.uint8), order | cv2.IMREAD_IGNORE_ORIENTATION)


def _unreadable(file: str | Path, reason: str) -> PictureError:
    return PictureError(f"{file} cannot be read as an image: {reason}; replace or remove it")


def _refused(file: str | Path, reason: str, advice: str) -> RefusedPictureError:
    return RefusedPictureError(f"{file} cannot be read as an image: {reason}; {advice}")
