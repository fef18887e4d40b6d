"""Files are written as a whole or not at all."""

import errno
import os

import pytest

from lesa_d2.errors import StorageError
from lesa_d2.storage import remove_unfinished, whole_file, whole_files, write_text


def test_the_file_is_there_only_at_the_end(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with whole_file(tmp_path / "a.txt") as unfinished:
        assert unfinished.parent == tmp_path
        assert unfinished.suffix == ".txt"
        unfinished.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_is_left(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")

    def write():
        with whole_file(tmp_path / "a.txt") as unfinished:
            unfinished.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_several_files_that_are_written_in_place(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with whole_files(tmp_path) as folder:
        (folder / "a.txt").write_text("new")
        (folder / "b.txt").write_text("b")
        assert (tmp_path / "a.txt").read_text() == "old"
        assert not (tmp_path / "b.txt").exists()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "new", "b.txt": "b"}

    def write(error):
        with whole_files(tmp_path) as folder:
            (folder / "a.txt").write_text("half")
            raise error

    with pytest.raises(KeyError, match="of the writer"):
        write(KeyError("of the writer"))
    with pytest.raises(StorageError, match="No space left on device; free space"):
        write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "new", "b.txt": "b"}


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "No space left on device; free space"), (errno.EROFS, "choose another folder")],
)
def test_errors_of_the_disk(tmp_path, number, advice):
    with (
        pytest.raises(StorageError, match=rf"a\.txt cannot be written: .*{advice}"),
        whole_file(tmp_path / "a.txt"),
    ):
        raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


def test_names_of_any_length(tmp_path):
    write_text(tmp_path / ("é" * 120 + ".json"), "x")  # 245 bytes
    with pytest.raises(StorageError, match="too long"):
        write_text(tmp_path / ("x" * 300), "x")
    assert len(os.listdir(tmp_path)) == 1


def test_what_a_kill_leaves_is_removed(tmp_path):
    (tmp_path / ".unfinished-123-0.pth").write_text("half")
    (tmp_path / ".unfinished-123-1").mkdir()
    (tmp_path / ".unfinished-123-1/a.json").write_text("half")
    (tmp_path / "mine.pth").write_text("whole")
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["mine.pth"]
