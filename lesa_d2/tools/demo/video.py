"""Video files and cameras, read and written by OpenCV."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ...errors import LesaError

DEFAULT_RATE = 25.0  # frames per second, for cameras that do not say
FORMS = ((".webm", "VP90"), (".mp4", "mp4v"))
"""Suffixes and codecs of what is written, the first that this OpenCV can write.

Browsers play VP9 and not MPEG-4 Part 2, the only codec for MP4 in OpenCV's own packages, which have no H.264."""


class VideoReader:
    """Yield the frames of a video file or a camera, (H, W, 3) uint8, BGR.

    Args:
        source: a file, or the number of a camera.

    Attributes:
        rate: frames per second.
        length: the number of frames that the file states, which may be inexact; None for a camera.

    Raises:
        LesaError: there is no such file or camera, or OpenCV cannot decode it.
    """

    def __init__(self, source: str | int) -> None:
        self.source = source
        if isinstance(source, str) and not Path(source).is_file():
            raise LesaError(f"there is no video file {source!r}")
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else repr(source)
            raise LesaError(
                f"{what} cannot be opened as a video; expected a format that OpenCV decodes (such as MP4 or "
                "AVI), or the number of a camera that is connected"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else DEFAULT_RATE
        frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = frames if isinstance(source, str) and frames > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield frame
        finally:
            self._capture.release()


class VideoWriter:
    """Write frames of one size as WebM, or where OpenCV has no VP9 as MP4; the file is created with the first frame.

    Args:
        stem: the file to write, without the suffix.
        rate: frames per second.

    Attributes:
        file: the file that is written; None before the first frame.
    """

    def __init__(self, stem: Path, rate: float) -> None:
        self.stem = stem
        self.file: Path | None = None
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (h, w, 3) uint8, BGR; codecs need even sides, so an odd last row or column is left out.

        Raises:
            LesaError: OpenCV cannot write the file.
        """
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            self._writer = self._open(width, height)
        self._writer.write(np.ascontiguousarray(frame[:height, :width]))

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        for suffix, codec in FORMS:
            file = self.stem.with_name(f"{self.stem.name}{suffix}")
            with _without_remarks():
                writer = cv2.VideoWriter(
                    str(file), cv2.VideoWriter.fourcc(*codec), self.rate, (width, height)
                )
            if writer.isOpened():
                self.file = file
                return writer
        raise LesaError(
            f"OpenCV cannot write {self.stem} as any of {', '.join(s for s, _ in FORMS)}; is the folder writable?"
        )

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Leave out, while open, what OpenCV's C++ code prints of the tags that it chooses for codecs."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
