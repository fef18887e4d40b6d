"""Video files and cameras through OpenCV."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...errors import LesaError

DEFAULT_RATE = 25.0  # frames a second, where a camera does not tell


class VideoReader:
    """The frames of a video file or a camera, (H, W, 3) uint8, BGR.

    Args:
        source: a file, or the number of a camera.

    Attributes:
        rate: frames a second.
        length: frames as the file says, which need not be exact; None for a camera.

    Raises:
        LesaError: no such file or camera, or not one that OpenCV can decode.
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
    """Writes frames of one size as MP4; the file is made with the first.

    Args:
        file: to write, ending in .mp4.
        rate: frames a second.
    """

    def __init__(self, file: Path, rate: float) -> None:
        self.file = file
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (h, w, 3) uint8, BGR; MP4 wants even sides, so that an odd last row is left out.

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
        if self._writer is not None:
            self._writer.release()
