"""A full, read-only or lost disk: one message that says what is intact, and nothing unfinished is left.

The file system is a real one in memory, of a few megabytes, which only the process that is tested sees.
"""

import re
import resource
import shutil
import signal

from disturbed_runs import check_files
from forks import READ_ONLY, REMOUNT, drop_privileges, fork, mount_small, own_mounts

from lesa_d2.engine.trainer import Trainer
from lesa_d2.errors import STOPPED

MEGA = 2**20


def in_a_small_file_system(disturbed, folder, size):
    """Train in a file system of ``size`` bytes; then resume with enough room; returns the output of the first run.

    The whole takes place in one process: no other process sees the mounted folder.
    """
    first, log = f"{folder}.first.log", f"{folder}.both.log"

    def run():
        own_mounts()
        folder.mkdir()
        mount_small(folder, size)
        run = disturbed.start(folder, log=first)
        status = run.wait()
        assert status == 2, f"status {status}: {run.text()[-3000:]}"
        mount_small(folder, 512 * MEGA, REMOUNT)
        check_files(folder)
        assert not list(folder.glob(".unfinished-*"))
        if (folder / "model_final.pth").exists() or list(folder.glob("model_0*.pth")):
            assert "--resume continues it" in run.text()
        else:
            assert "There is no checkpoint yet" in run.text()
        disturbed.finish(folder)
        return 0

    both = fork(run, log)
    assert both.wait() == 0, both.text()[-3000:]
    with open(first, encoding="utf-8") as file:
        return file.read()


def check_message(text, folder):
    """One message, which names the path."""
    errors = re.findall(r"^error: .*", text, re.MULTILINE)
    assert len(errors) == 1, text[-3000:]
    assert str(folder) in errors[0]
    assert "Traceback" not in text
    assert "inline_container" not in text
    assert "Exception ignored" not in text


def test_a_full_disk(disturbed, tries, outcome):
    whole = sum(file.stat().st_size for file in disturbed.whole.iterdir() if file.is_file())
    number = tries(2, 20)
    for attempt in range(number):
        folder = disturbed.folder(f"full_{attempt}")
        size = int(whole * (attempt + 0.5) / (number + 1))
        text = in_a_small_file_system(disturbed, folder, size)
        check_message(text, folder)
        assert "No space left on device; free space" in text
    outcome(
        "disk full (tmpfs)",
        str(number),
        "status 2, one message; resumed with room: bit-equal",
        f"{whole / MEGA:.1f} MB needed",
    )


def after_three_steps(spoil):
    """Have ``spoil()`` called once, after the third step."""
    step = Trainer.run_step

    def run_step(self):
        step(self)
        if self.iter == 2:
            spoil()

    Trainer.run_step = run_step


def test_a_read_only_disk(disturbed, outcome):
    """With a run in it, which was stopped."""
    folder, log = disturbed.folder("read_only"), disturbed.root / "read_only.both.log"

    def run():
        own_mounts()
        folder.mkdir()
        mount_small(folder, 512 * MEGA)
        stopped = disturbed.start(
            folder, before=lambda: after_three_steps(lambda: signal.raise_signal(signal.SIGTERM))
        )
        assert stopped.wait() == STOPPED
        mount_small(folder, 512 * MEGA, REMOUNT | READ_ONLY)
        for flags in (["--resume"], ["--overwrite"]):
            refused = disturbed.start(folder, *flags, log=f"{folder}{flags[0]}.log")
            assert refused.wait() == 2, refused.text()[-3000:]
            check_message(refused.text(), folder)
            assert "Read-only file system" in refused.text()
        mount_small(folder, 512 * MEGA, REMOUNT)
        disturbed.finish(folder)
        return 0

    both = fork(run, log)
    assert both.wait() == 0, both.text()[-3000:]
    outcome("file system read-only at --resume", "1", "status 2, one message; resumed: bit-equal", "")


def test_a_folder_that_is_gone(disturbed, outcome):
    folder = disturbed.folder("gone")
    run = disturbed.start(folder, before=lambda: after_three_steps(lambda: shutil.rmtree(folder)))
    assert run.wait() == 2, run.text()[-3000:]
    check_message(run.text(), folder)
    outcome("folder removed during training", "1", "status 2, one message", "")


def test_files_that_may_not_grow(disturbed, outcome):
    """As a quota, which needs a file system of its own kind."""
    folder = disturbed.folder("limited")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEGA, MEGA))

    run = disturbed.start(folder, before=limit)
    assert run.wait() == 2, run.text()[-3000:]
    check_message(run.text(), folder)
    assert not list(folder.glob(".unfinished-*"))
    outcome("limit of the size of files", "1", "status 2, one message", "")


def test_a_folder_without_permission(disturbed):
    """Without the privileges of root, if the tests have them."""
    folder = disturbed.folder("forbidden")
    folder.mkdir(mode=0o500)
    run = disturbed.start(folder, before=drop_privileges)
    assert run.wait() == 2, run.text()[-3000:]
    check_message(run.text(), folder)
    assert "Permission denied" in run.text()
