"""A Python in which everything is imported: a command starts in a copy of its process, at once instead of in 7 seconds.

``WarmPython(folder, environment)`` starts it; ``write_command(file)`` writes a program that takes what ``python`` takes
(a script, ``-m MODULE`` or ``-c CODE``, then arguments) and behaves like it: standard streams, working folder,
environment, exit status.  Of the interpreter's flags it takes torchrun's ``-u``.  A signal reaches the program and
not the command: what sends signals needs a real Python.  ``program()`` is the one that tests share.
"""

import array
import atexit
import functools
import gc
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

WARM = (
    *(
        "detectron2.engine",
        "detectron2.evaluation",
        "detectron2.model_zoo",
        "matplotlib.pyplot",
        "torch.distributed.run",
        "torch.onnx",
    ),
    *("lesa_d2.cli", "lesa_d2.engine", "lesa_d2.evaluation", "lesa_d2.model_zoo", "lesa_d2.predictor"),
)
# Without its site packages an interpreter starts in 15 ms.
CLIENT = """#!/bin/sh
exec "{python}" -S -E "{here}" ask "{address}" "$0" {first} "$@"
"""


class WarmPython:
    """The process that is copied; close() ends it."""

    def __init__(self, folder, environment):
        self.address = folder / "warm_python"
        self.log = folder / "warm_python.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "serve", str(self.address)],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def write_command(self, file, *first):
        """Write the program; ``first`` are arguments that come before those it is given."""
        words = " ".join(f"'{word}'" for word in first)
        file.write_text(
            CLIENT.format(python=sys.executable, here=__file__, address=self.address, first=words)
        )
        file.chmod(0o755)

    def close(self):
        self.process.terminate()
        self.process.wait()


@functools.cache
def program():
    """The path of a warm Python that the tests of this process share; started on first use."""
    folder = Path(tempfile.mkdtemp(prefix="warm_python"))
    root = Path(__file__).resolve().parents[2]
    warm = WarmPython(folder, {**os.environ, "PYTHONPATH": str(root)})
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(warm.close)
    warm.write_command(folder / "python")
    return str(folder / "python")


def ask(address, program, *arguments):
    """Hand a command to the warm process and return its exit status."""
    with connected(address) as connection:
        request = {
            "program": program,
            "arguments": arguments,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
        }
        streams = socket.SCM_RIGHTS, array.array("i", [0, 1, 2])
        connection.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, *streams)])
        connection.shutdown(socket.SHUT_WR)
        status = connection.recv(16)
    if not status:
        raise SystemExit(f"The warm Python at {address} ended before the command {arguments}.")
    return int(status)


def connected(address, patience=120):
    """A connection to the process, which may still be importing."""
    connection = socket.socket(socket.AF_UNIX)
    for _ in range(patience * 20):
        try:
            connection.connect(address)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)
    raise SystemExit(f"No warm Python at {address}.")


def next_command(address):
    """Wait for commands; returns once in a new process for each of them, with its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(8)
    os.rename(f"{address}.new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request = received(connection)
            child = os.fork()
            if child == 0:
                connection.close()
                return request
            _, status = os.waitpid(child, 0)
            connection.send(str(os.waitstatus_to_exitcode(status) % 256).encode())
            os._exit(0)
        connection.close()


def received(connection):
    """The request of a connection; its three streams become this process's."""
    data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(12))
    streams = array.array("i", ancillary[0][2])
    while more := connection.recv(1 << 16):
        data += more
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return json.loads(data)


def run(request):
    """Become the command."""
    os.chdir(request["folder"])
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ.clear()
    os.environ.update(request["environment"])
    if os.environ.get("DETECTRON2_DATASETS") != before:
        register_builtin_datasets()
    sys.executable = request["program"]  # what the command starts is warm as well
    kind, *rest = (argument for argument in request["arguments"] if argument != "-u")  # of torchrun
    if kind == "-c":
        sys.argv[:], sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    elif kind == "-m":
        sys.argv[:], sys.path[0] = rest, request["folder"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = [kind, *rest], str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


def register_builtin_datasets():
    """Register detectron2's own data sets again: their folder is read when it is imported."""
    import importlib

    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import builtin

    DatasetCatalog.clear()
    MetadataCatalog.clear()
    importlib.reload(builtin)


def warm_up():
    import importlib

    for name in WARM:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    action, place, *command = sys.argv[1:]
    if action == "ask":
        raise SystemExit(ask(place, *command))
    warm_up()
    run(next_command(place))
