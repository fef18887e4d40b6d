"""Errors that a user can fix, and the one place where an error becomes the message that a command prints."""

import os
import re
import select
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

WITHOUT_SEMANTICS = "model.roi_heads.semantic_head=null model.roi_heads.semantic_pooler=null"
"""Overrides that take the semantic branch out of Hybrid Task Cascade, which messages name."""

FAILED = 2
"""Exit status of an error of the user's."""
STOPPED = 75
"""Exit status of a run that a signal stopped and that is saved (EX_TEMPFAIL of sysexits.h, try again later)."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it; a training in progress is saved as well."""
UNREAD = 141
"""Exit status where nobody reads what is printed (SIGPIPE)."""


UNFIT = (TypeError, AttributeError, LookupError, AssertionError)
"""What is raised where a part of a config is missing, or of another kind than its place."""

SHAPES = re.compile(
    r"shapes?\b|size mismatch|sizes? of tensor|expected .*input|must match|channels|dimension", re.IGNORECASE
)
"""What PyTorch says of tensors that do not fit together."""

LIBRARIES = ("detectron2", "torch", "torchvision", "fvcore", "iopath", "omegaconf")
"""Packages that are not the user's, wherever they lie, as detectron2 is often run from its sources."""


class LesaError(ValueError):
    """Report bad input; the message says what was expected, what was received, and what to do."""


class ConfigError(LesaError):
    """Report a config file or an override that cannot be used."""


class CheckpointError(LesaError):
    """Report a checkpoint that is missing, damaged, or does not fit the model."""


class StorageError(LesaError):
    """Report a file that cannot be written."""


class NonFiniteError(LesaError, FloatingPointError):
    """Report a loss that became infinite or not a number."""


class DatasetError(LesaError):
    """Report a data set that is missing or wrong."""


class ExportError(LesaError):
    """Report a model that cannot be exported, or an export that differs from its model."""


class StoppedError(Exception):
    """Report that a run was stopped by a signal, whose number it holds."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.saved = "its state is not saved"

    def __str__(self) -> str:
        return f"Stopped by {signal.Signals(self.number).name}: {self.saved}. It continues with --resume."


def listed(names: Sequence[str], shown: int = 6) -> str:
    """Return the first names for a message, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def exit_status(run: Callable[[], int | None]) -> int:
    """Run a command and return its exit status, after printing the one message of a user's error.

    Every process prints its own errors, with its rank in front where there are several.  With
    ``LESA_TRACEBACK=1`` in the environment the whole traceback is printed as well.
    """
    try:
        status = run() or 0
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return status
    except LesaError as error:
        if os.environ.get("LESA_TRACEBACK") == "1":
            traceback.print_exc()
        print(f"{_rank()}error: {_message(error)}", file=sys.stderr)
        return FAILED
    except StoppedError as stop:
        print(f"{_rank()}{stop}", file=sys.stderr)
        return INTERRUPTED if stop.number == signal.SIGINT else STOPPED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return UNREAD
    except KeyboardInterrupt:
        print(
            f"\n{_rank()}Interrupted. A training run continues from its last checkpoint with --resume.",
            file=sys.stderr,
        )
        return INTERRUPTED


def _nobody_reads() -> bool:
    """Return whether the reader of the standard output has gone, as ``head`` does; then leave out what remains."""
    if not hasattr(select, "poll"):
        return False
    output = 1
    poll = select.poll()
    poll.register(output, 0)  # errors alone
    has_gone = bool(poll.poll(0))
    if has_gone:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), output)
    return has_gone


def _message(error: LesaError) -> str:
    """Return the text of an error; one from a data loader's worker carries that worker's traceback before it."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return text.strip()


def _rank() -> str:
    """Return ``[rank r] `` where several processes run, else nothing."""
    distributed = sys.modules.get("torch.distributed")  # without torch there is one process
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return ""
    return f"[rank {distributed.get_rank()}] " if distributed.get_world_size() > 1 else ""


def described(error: BaseException) -> str:
    """Return type and message of an error, after ``file:line`` where it was raised in a file of the user's.

    Files of Python, of installed packages and of this package are not the user's.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = _frames_of_user(error)
    where = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {shortened(error)}"


@contextmanager
def parts_fit(what: str, parts: str) -> Iterator[None]:
    """Report, while open, what is raised where parts of a config are missing or of other kinds than their places.

    Args:
        what: is done meanwhile, such as "the first step".
        parts: the sections of the config that take part.

    Raises:
        ConfigError: instead of such an error, unless a file of the user's raised it.
    """
    try:
        yield
    except (*UNFIT, RuntimeError) as error:
        if is_of_user(error) or not _is_misfit(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = described(error) if str(error) else place.line or f"{type(error).__name__} in {place.name}"
        raise ConfigError(
            f"{what} failed, as it does where parts of {parts} do not fit together: {told}. LESA_TRACEBACK=1 "
            "shows where"
        ) from error


def _is_misfit(error: BaseException) -> bool:
    """Tell whether an error is what parts that do not fit raise; of PyTorch's own, only those about shapes are."""
    return isinstance(error, UNFIT) or (type(error) is RuntimeError and bool(SHAPES.search(str(error))))


def shortened(error: BaseException, most: int = 12) -> str:
    """Return the message of an error, its first lines; OmegaConf's has three for each section around a key.

    Of an error in a data loader's process, which has that process's traceback in its message, it is the last line.
    """
    lines = str(error).splitlines()
    if any(line.startswith("Original Traceback") for line in lines):
        return lines[-1]
    more = [f"… ({len(lines) - most} lines more)"] if len(lines) > most else []
    return "\n".join([*(line if len(line) <= 500 else f"{line[:500]}…" for line in lines[:most]), *more])


def is_of_user(error: BaseException) -> bool:
    """Tell whether an error passed through a file of the user's."""
    return bool(_frames_of_user(error))


def _frames_of_user(error: BaseException) -> list[traceback.FrameSummary]:
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages = [getattr(sys.modules.get(name), "__file__", None) for name in LIBRARIES]
    libraries = [os.path.dirname(file) for file in (__file__, *packages) if file]
    folders = [os.path.realpath(folder) for folder in (*installed, *libraries)]
    frames = [*traceback.extract_tb(error.__traceback__), *_frames_of_reader(error)]
    if frames and os.path.realpath(frames[0].filename) == os.path.realpath(sys.argv[0]):
        del frames[0]  # the script that was called has the first frame of every error
    paths = [os.path.realpath(frame.filename) for frame in frames]
    return [
        frame
        for path, frame in zip(paths, frames, strict=True)
        if os.path.isfile(path) and not any(path.startswith(f + os.sep) for f in folders)
    ]


def _frames_of_reader(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames in the message of an error that a data loader's process has sent."""
    text = str(error).partition("Original Traceback")[2]
    found = re.findall(r'File "([^"]+)", line (\d+), in (.*)', text)
    return [traceback.FrameSummary(file, int(line), name) for file, line, name in found]
