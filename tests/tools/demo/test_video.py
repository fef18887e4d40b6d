"""Reading and writing video."""

import numpy as np
import pytest

from lesa_d2.errors import LesaError
from lesa_d2.tools.demo import VideoReader, VideoWriter


def write(file, number=7, height=48, width=64, rate=12.5):
    writer = VideoWriter(file, rate)
    for index in range(number):
        writer.write(np.full((height, width, 3), 30 * index, np.uint8))
    writer.close()
    return str(file)


def test_what_is_written_is_read(tmp_path):
    reader = VideoReader(write(tmp_path / "a.mp4"))
    assert (reader.length, reader.rate) == (7, 12.5)
    frames = list(reader)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 7
    assert np.allclose([frame.mean() for frame in frames], np.arange(7) * 30, atol=4)


def test_odd_sides(tmp_path):
    assert next(iter(VideoReader(write(tmp_path / "a.mp4", height=49, width=65)))).shape == (48, 64, 3)


def test_what_is_no_video(tmp_path):
    with pytest.raises(LesaError, match=r"no video file '.*nowhere.mp4'"):
        VideoReader(str(tmp_path / "nowhere.mp4"))
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(LesaError, match="cannot be opened as a video"):
        VideoReader(str(tmp_path / "text.mp4"))
    with pytest.raises(LesaError, match="camera 99 cannot be opened"):
        VideoReader(99)


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(LesaError, match="OpenCV cannot write"):
        write(tmp_path / "missing" / "a.mp4")


def test_nothing_written_leaves_no_file(tmp_path):
    VideoWriter(tmp_path / "a.mp4", 25).close()
    assert not (tmp_path / "a.mp4").exists()
