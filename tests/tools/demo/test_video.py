"""Reading and writing video."""

import cv2
import numpy as np
import pytest

from lesa_d2.errors import LesaError
from lesa_d2.tools.demo import FORMS, VideoReader, VideoWriter, video


def write(stem, number=7, height=48, width=64, rate=12.5):
    writer = VideoWriter(stem, rate)
    for index in range(number):
        writer.write(np.full((height, width, 3), 30 * index, np.uint8))
    writer.close()
    return str(writer.file)


@pytest.mark.parametrize("forms", [FORMS, FORMS[1:]], ids=["all", "without VP9"])
def test_what_is_written_is_read(tmp_path, monkeypatch, forms):
    monkeypatch.setattr(video, "FORMS", forms)
    reader = VideoReader(write(tmp_path / "a"))
    assert (reader.length, reader.rate) == (7, 12.5)
    frames = list(reader)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 7
    assert np.allclose([frame.mean() for frame in frames], np.arange(7) * 30, atol=4)


def test_browsers_play_it(tmp_path, capfd):
    """They play VP9, and none plays the MPEG-4 Part 2 that OpenCV writes as MP4; names with dots keep them."""
    file = write(tmp_path / "a.b")
    assert file.endswith("a.b.webm")
    code = int(cv2.VideoCapture(file).get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    assert code.lower() in (b"vp90", b"vp09")
    assert capfd.readouterr().err == ""


def test_odd_sides(tmp_path):
    assert next(iter(VideoReader(write(tmp_path / "a", height=49, width=65)))).shape == (48, 64, 3)


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
        write(tmp_path / "missing" / "a")


def test_nothing_written_leaves_no_file(tmp_path):
    VideoWriter(tmp_path / "a", 25).close()
    assert not list(tmp_path.iterdir())
