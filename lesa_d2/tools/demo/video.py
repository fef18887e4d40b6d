"""Video files and cameras, read and written by OpenCV."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...errors import LesaError

DEFAULT_RATE = 25.0  # frames per second, for cameras that do not say


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
    """Write frames of one size as MP4; the file is created with the first frame.

    Args:
        file: the file to write, which ends in .mp4.
        rate: frames per second.
    """

    def __init__(self, file: Path, rate: float) -> None:
        self.file = file
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (h, w, 3) uint8, BGR; MP4 needs even sides, so an odd last row or column is left out.

        Raises:
            LesaError: OpenCV cannot write the file.
        """
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.file), code, self.rate, (width, height))
            if not self._writer.isOpened():
                raise LesaError(f"OpenCV cannot write {self.file}; is the folder writable?")
        self._writer.write(np.ascontiguousarray(frame[:height, :width]))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
