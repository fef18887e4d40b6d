"""The numbers of a step: losses, the gradient's norm and what a model notes, read from the device in one copy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

from ..compat import name_in_scope


class Note(NamedTuple):
    """A scalar that a model has noted as a tensor."""

    name: str
    value: Tensor
    smoothing_hint: bool


class StepStorage(EventStorage):
    """Keep scalars that are tensors, during a step, for the trainer to read them together with the losses."""

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self._notes: list[Note] | None = None

    def start_step(self) -> None:
        """Keep tensors from now on, until :meth:`end_step`."""
        self._notes = []

    def end_step(self) -> list[Note]:
        """Return the tensors that were kept since :meth:`start_step`."""
        notes, self._notes = self._notes or [], None
        return notes

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a scalar, as :class:`EventStorage`; during a step, a tensor is kept instead."""
        if self._notes is None or not isinstance(value, Tensor):
            super().put_scalar(name, value, smoothing_hint, cur_iter)
        else:
            self._notes.append(Note(name_in_scope(self, name), value.detach(), smoothing_hint))


class StepMetrics(NamedTuple):
    """The numbers of a step on the host.

    Attributes:
        norm: of the gradient.
        losses: means over micro-batches and processes, by name.
        data_time: seconds that the slowest process has waited for its data.
        notes: of this process, in the order of what it has noted.
    """

    norm: float
    losses: dict[str, float]
    data_time: float
    notes: list[float]

    def write(self, storage: EventStorage) -> None:
        """Write losses and time as detectron2's trainer does: those of all processes, on the main one."""
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", self.data_time)
        storage.put_scalar("total_loss", sum(self.losses.values()))
        if len(self.losses) > 1:
            storage.put_scalars(**self.losses)


def read_metrics(
    norm: Tensor, losses: Mapping[str, Tensor], data_time: float, notes: Sequence[Note] = ()
) -> StepMetrics:
    """Return the numbers of a step; the processes exchange theirs in one operation, on the device.

    Whatever is not finite in one process is so in all of them afterwards.

    Args:
        norm: of the gradient, ().
        losses: means over the micro-batches of this process, () each, the same names in every process.
        data_time: seconds that this process has waited for its data.
        notes: of this process.
    """
    processes = comm.get_world_size()
    times = torch.zeros(processes, device=norm.device)
    times[comm.get_rank()].fill_(data_time)
    numbers = torch.cat([torch.stack([norm, *losses.values()]).float() / processes, times])
    if processes > 1:
        dist.all_reduce(numbers)
    values = torch.cat([numbers, *(note.value.float().reshape(1) for note in notes)]).cpu().tolist()
    first, last = 1 + len(losses), 1 + len(losses) + processes
    means = dict(zip(losses, values[1:first], strict=True))
    return StepMetrics(values[0], means, max(values[first:last]), values[last:])
