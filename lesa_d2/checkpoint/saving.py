"""Save the state of a run, and resume it."""

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer
from torch import Tensor

from ..errors import CheckpointError, NonFiniteError, listed
from ..storage import whole_file, write_text
from .loading import load_weights
from .reading import read_checkpoint
from .report import LoadReport

logger = logging.getLogger("lesa_d2")

LAST = "last_checkpoint"
"""The file that names the checkpoint that a run wrote last."""
FINAL = "model_final"
PERIODIC = re.compile(r"model_(\d{7,})\.pth")


class WeightsWriter(Checkpointer):
    """Write a model's weights beside a run's checkpoints, without becoming what ``--resume`` continues.

    A file is written as a whole or not at all, and only if its weights are finite.
    """

    def save(self, name: str, **more: Any) -> None:
        """Write the weights to ``NAME.pth``, and ``more`` with them.

        Raises:
            NonFiniteError: a weight is not finite.
            StorageError: the file cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        members = {key: member.state_dict() for key, member in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **members, **more}
        parameters = dict(self.model.named_parameters())
        for weights in (content["model"], members.get("ema", {})):
            check_finite({key.removeprefix("module."): v for key, v in weights.items()}, parameters, name)
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        with whole_file(file) as unfinished, open(unfinished, "wb") as opened:
            torch.save(content, opened)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leave ``last_checkpoint`` as it is: it names the last complete state."""


class RunCheckpointer(WeightsWriter, DetectionCheckpointer):
    """Save the model and everything else that a run consists of, and resume the last saved state.

    ``RunCheckpointer(model, folder, trainer=trainer, ema=ema)`` is detectron2's checkpointer; what it is
    given by name has ``state_dict`` and ``load_state_dict``.  Use :meth:`resume` instead of ``load``.
    """

    resumed_from = ""
    """The file that the run was continued from."""
    loaded: Collection[str] = ()
    """The parts of the run that were in this file."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file as the one that ``--resume`` continues."""
        write_text(Path(self.save_dir) / LAST, last_filename_basename)

    def resume(self, files: Sequence[str] = ()) -> LoadReport:
        """Load the newest checkpoint that can be read: the model, and all else that it holds.

        Files that cannot be read are named in warnings.

        Args:
            files: the newest first; without any, those of the folder.

        Raises:
            CheckpointError: none can be read, or it is not one of this run.
        """
        path, checkpoint = self._newest(files or checkpoint_files(self.save_dir))
        if "trainer" in self.checkpointables and "trainer" not in checkpoint:
            raise CheckpointError(
                f"{path} holds weights, but not the state of a run, and cannot be continued: start from it by "
                f"train.init_checkpoint={path}, in another train.output_dir"
            )
        report = load_weights(self.model, path, weights=checkpoint["model"])
        self.resumed_from, self.loaded = path, checkpoint.keys()
        for name, member in self.checkpointables.items():
            if name in checkpoint:
                _restore(member, name, checkpoint[name], path)
        return report

    def _newest(self, files: Sequence[str]) -> tuple[str, dict[str, Any]]:
        unreadable: dict[str, str] = {}
        for path in files:
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError as error:
                unreadable[path] = str(error)
            else:
                for reason in unreadable.values():
                    logger.warning("Not continued from: %s", reason)
                if unreadable:
                    logger.warning("Continued from %s, the newest checkpoint that can be read.", path)
                return path, checkpoint
        raise CheckpointError(
            f"no checkpoint of {self.save_dir} can be read: {_once_each(unreadable) or 'there is none'}"
        )


def _once_each(reasons: Mapping[str, str]) -> str:
    """Return the reasons by path as one text, in which one that several files have stands once."""
    paths: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        paths.setdefault(reason.replace(path, "\0"), []).append(path)
    return "; ".join(reason.replace("\0", listed(names, 3)) for reason, names in paths.items())


def _restore(member: Any, name: str, state: Any, path: str) -> None:
    """Have a part of a run take its state from a checkpoint.

    Raises:
        CheckpointError: it is not a state of this part.
    """
    try:
        member.load_state_dict(state)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"lacks {error}" if isinstance(error, KeyError) else lines[0]
        raise CheckpointError(
            f"{path}: the state of {name!r} is not that of this run: {reason}. Continue with the config of that run, "
            f"or start from its weights by train.init_checkpoint={path}, in another train.output_dir"
        ) from error


def check_finite(weights: Mapping[str, Any], parameters: Mapping[str, Any], name: str) -> None:
    """Check that weights may be kept: all finite; buffers may hold infinities, such as those of a mask.

    Raises:
        NonFiniteError: some are not.
    """
    tensors = {key: v for key, v in weights.items() if isinstance(v, Tensor) and v.is_floating_point()}
    bad = [
        key for key, v in tensors.items() if bool((~v.isfinite() if key in parameters else v.isnan()).any())
    ]
    if bad:
        raise NonFiniteError(
            f"{name}.pth is not written: {len(bad)} of its tensors are not finite ({listed(bad, 3)})"
        )


# ------------------------------------------------------------------------------------------------ files of a run


def checkpoint_files(folder: str | os.PathLike) -> list[str]:
    """Return the checkpoints from which a run in ``folder`` can be continued, the last first."""
    return list(dict.fromkeys(_checkpoint_files(Path(folder))))


def _checkpoint_files(folder: Path) -> Iterator[str]:
    last = _named_last(folder)
    if last:
        yield str(folder / last)
    files = [file for _, file in reversed(periodic_files(folder))]
    final = folder / f"{FINAL}.pth"
    if os.path.isfile(final):
        is_newest = not files or final.stat().st_mtime_ns >= files[0].stat().st_mtime_ns
        files.insert(0 if is_newest else len(files), final)
    yield from map(str, files)


def periodic_files(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """Return the checkpoints that a run in ``folder`` wrote during training, each after its step, in order."""
    files = [(PERIODIC.fullmatch(file.name), file) for file in Path(folder).glob("model_*.pth")]
    return sorted((int(match[1]), file) for match, file in files if match)


def _named_last(folder: Path) -> str:
    file = folder / LAST
    try:
        if not file.is_file():
            return ""
        name = file.read_text(encoding="utf-8").strip()
        if not name or "\0" in name or "\n" in name:
            raise ValueError(f"it holds {name!r}, not the name of a file")
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read and is not used: %s", file, error)
        return ""
    return name


def last_checkpoint(folder: str | os.PathLike) -> str:
    """Return the checkpoint that a run in ``folder`` wrote last; "" when there is none."""
    files = checkpoint_files(folder)
    return files[0] if files else ""
