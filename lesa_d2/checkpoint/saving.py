"""Save the state of a run, and resume it."""

import os

from detectron2.checkpoint import Checkpointer, DetectionCheckpointer
from torch import nn

from .loading import load_weights
from .reading import read_checkpoint
from .report import LoadReport


class RunCheckpointer(DetectionCheckpointer):
    """Save the model and everything else that a run consists of, and resume the last saved state.

    ``RunCheckpointer(model, folder, trainer=trainer, ema=ema)`` is detectron2's checkpointer; what it is
    given by name has ``state_dict`` and ``load_state_dict``.  Use :meth:`resume` instead of ``load``.
    """

    def resume(self) -> LoadReport:
        """Load the last checkpoint of the folder: the model, and all else that the checkpoint holds.

        Raises:
            CheckpointError: the file is gone or damaged, or it is not a checkpoint of this model; nothing is
                changed then.
        """
        path = self.get_checkpoint_file()
        checkpoint = read_checkpoint(path)
        report = load_weights(self.model, path, weights=checkpoint["model"])
        for name, member in self.checkpointables.items():
            if name in checkpoint:
                member.load_state_dict(checkpoint[name])
        return report


class WeightsWriter(Checkpointer):
    """Write a model's weights beside a run's checkpoints, without becoming what ``--resume`` continues."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leave ``last_checkpoint`` as it is: it names the last complete state."""


def last_checkpoint(folder: str | os.PathLike) -> str:
    """Return the checkpoint that a run in ``folder`` wrote last; "" when there is none."""
    return DetectionCheckpointer(nn.Module(), str(folder)).get_checkpoint_file()
