"""Commands in copies of this process, which has imported everything: they can be killed, and start at once."""

import ctypes
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from lesa_d2.cli import main
from lesa_d2.errors import LesaError

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000  # flags of unshare(2)
READ_ONLY, REMOUNT = 1, 32  # flags of mount(2)


@dataclass
class Fork:
    """A command that is running; ``log`` has what it prints."""

    pid: int
    log: Path

    def wait(self):
        """Wait for the end; returns the exit status, negative after a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def is_running(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def text(self):
        return self.log.read_text(errors="replace")


def fork(run, log):
    """Start ``run()``, which returns an exit status, in a copy of this process."""
    pid = os.fork()
    if pid:
        return Fork(pid, Path(log))
    status = 70
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(stream, number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        status = run()
    except SystemExit as end:
        status = end.code
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status or 0)


def lesa(*arguments, log, before=lambda: None):
    """Start ``lesa ARGUMENTS`` after ``before()``."""

    def run():
        before()
        return main([*map(str, arguments)])

    return fork(run, log)


def eventually(is_true, patience=60.0):
    """Wait until something is true."""
    end = time.monotonic() + patience
    while not is_true():
        assert time.monotonic() < end, "It did not happen in time."
        time.sleep(0.01)


def own_mounts():
    """Give this process mounts of its own, in a user namespace where it is not root.

    Raises OSError where the system does not allow that.
    """
    user, group = os.getuid(), os.getgid()
    if user == 0 and LIBC.unshare(NEW_MOUNTS) == 0:
        return
    _check(LIBC.unshare(NEW_USER | NEW_MOUNTS), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount_small(folder, size, flags=0):
    """Mount a file system of ``size`` bytes in memory; with REMOUNT in ``flags``, change it."""
    options = f"size={size}".encode()
    private = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC: the mount is seen by this process alone
    _check(LIBC.mount(b"none", b"/", None, private, None), "mount --make-rprivate")
    _check(LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options), f"mount of {folder}")


def _check(status, what):
    if status:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}; this test needs user namespaces")


def drop_privileges():
    """Take from this process what root may do beyond the permissions of files (capset(2), version 3)."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _check(LIBC.capset(header, nothing), "capset")


def without_privileges(run, log):
    """Call ``run()`` in a copy of this process that may do no more than the permissions of files; the error's text."""

    def call():
        drop_privileges()
        try:
            run()
        except LesaError as error:
            print(error)
            return 0
        return 3

    copy = fork(call, log)
    assert copy.wait() == 0, copy.text()
    return copy.text()
