"""detectron2's SimpleTrainer with accumulation, mixed precision, clipping, and a state that resumes exactly.

The random numbers of iteration k depend on (train.seed, k, process, micro-batch) only, so a resumed run draws the
same ones, and W processes draw the same ones as one process with W micro-batches.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..checkpoint import last_checkpoint, unwrap
from ..compat import without_process_group
from ..data.loader import mix_seed
from ..errors import ConfigError, NonFiniteError, listed, parts_fit
from ..storage import whole_file
from .batches import as_plain, file_names, on_device
from .device import PRECISIONS, keep_ways
from .metrics import StepMetrics, StepStorage, read_metrics
from .state import check_numbers, check_optimizer, check_scaler, check_step
from .stopping import start_reading

logger = logging.getLogger("lesa_d2")

Number = int | float


class Trainer(SimpleTrainer):
    """Make one optimizer step from ``accumulate`` micro-batches.

    Args:
        model: returns a loss, or a dict of losses, in training; the same ones in every process.
        data_loader: yields micro-batches; may be given later, before training.
        optimizer: torch optimizer.
        seed: non-negative.
        accumulate: micro-batches in one step; the losses are averaged over them.
        precision: "float32", or "bfloat16" / "float16" for autocast (the latter with loss scaling).
        clip_grad_norm: limit of the 2-norm of the gradient; None sets no limit.
        skip_non_finite: steps in a row that may be left out because a loss or the gradient is not finite.
        output_dir: the folder into which the batch of a step that is not finite is written; None writes none.

    Attributes:
        last_step: the last step that was made, counted from 0; -1 before the first.

    Raises:
        NonFiniteError: a loss or the gradient is not finite; the message names the first module with a non-finite
            output, and the pictures.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int = 0,
        accumulate: int = 1,
        precision: str = "float32",
        clip_grad_norm: float | None = None,
        skip_non_finite: int = 0,
        output_dir: str | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if precision not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype must be one of {sorted(PRECISIONS)}, got {precision!r}")
        self.seed = seed
        self.accumulate = accumulate
        self.precision = PRECISIONS[precision]
        self.clip_grad_norm = clip_grad_norm
        self.skip_non_finite = skip_non_finite
        self.output_dir = output_dir
        self.last_step = -1
        self._skipped = 0  # in a row
        self._kept_buffers: list[Tensor] = []
        self.device = next(model.parameters()).device
        self.last_results: dict[str, Any] = {}
        self._batches: Iterator[Any] | None = None
        self._initial_numbers = numbers_of(model)
        optimizer.register_load_state_dict_pre_hook(keep_ways)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Make the steps from ``start_iter`` on; ``max_iter`` is the number of steps of the whole run.

        Unlike detectron2's loop, nothing is evaluated or written after an error but the log.
        """
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        logger.info("Training from step %d to %d", start_iter, max_iter)
        first = parts_fit("the first step", "model and dataloader.train")
        with StepStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    with first if self.iter == start_iter else contextlib.nullcontext():
                        self.run_step()
                    self.last_step = self.iter
                    self.after_step()
                self.iter = max_iter
                self.after_train()
            except BaseException:
                self._close()
                raise

    def _close(self) -> None:
        """Stop the loader's processes, and close what has been written so far."""
        self._batches = None
        self.concurrent_executor.shutdown(wait=True)
        for hook in self._hooks:
            if isinstance(hook, PeriodicWriter):
                with contextlib.suppress(Exception):  # that of training is reported
                    hook.after_train()

    def after_train(self) -> None:
        """Stop the loader's processes, and have the hooks evaluate and write the end of the run."""
        self._batches = None
        super().after_train()

    def run_step(self) -> None:
        """Make one optimizer step, and write its losses.

        The losses and the gradient's norm come from the device in one copy, before the optimizer's step: the only time
        at which the trainer waits for the device; the model and a GradScaler may wait themselves.  Several processes
        exchange them before, so that all agree on whether the step can be made.
        """
        self.storage.start_step()
        if self._batches is None:
            self._batches = start_reading(self.data_loader)
        self._keep_buffers()
        self.optimizer.zero_grad()
        batches, losses = [], []
        data_time = 0.0
        for part in range(self.accumulate):
            start = time.perf_counter()
            batches.append(next(self._batches))
            data_time += time.perf_counter() - start
            try:
                losses.append(self._forward_backward(batches[-1], part))
            except FloatingPointError as error:  # detectron2 checks its proposals
                self._leave_out(self._non_finite(batches, part, str(error)), is_alone=True)
                return
        notes = self.storage.end_step()
        metrics = read_metrics(self._clip(), self._means(losses), data_time, notes)
        if self._check(batches, losses, metrics):
            self._skipped = 0
            self.scaler.step(self.optimizer)
            metrics.write(self.storage)
            self.storage.put_scalar("rank_data_time", data_time)
            for note, value in zip(notes, metrics.notes, strict=True):
                self.storage.put_scalar(note.name, value, note.smoothing_hint)
            if self.clip_grad_norm is not None:
                self.storage.put_scalar("grad_norm", metrics.norm)
        self.scaler.update()

    def _forward_backward(self, data: Any, part: int) -> dict[str, Tensor]:
        self._seed_step(part)
        is_last = part == self.accumulate - 1
        with contextlib.nullcontext() if is_last else self._without_gradient_sync():
            with self._autocast():
                output = self.model(on_device(data, self.device))
            losses = {"loss": output} if isinstance(output, Tensor) else output
            total = sum(losses.values(), torch.zeros((), device=self.device))
            self.scaler.scale(total / self.accumulate).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _clip(self) -> Tensor:
        """Clip the gradient; return its norm before, ()."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        if self.clip_grad_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self.clip_grad_norm, norm)
        return norm.to(self.device)

    def _means(self, losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses by name, means over the micro-batches."""
        names = list(dict.fromkeys(name for part in losses for name in part))
        zero = torch.zeros((), device=self.device)
        return {
            name: sum((part.get(name, zero).float() for part in losses), zero) / self.accumulate
            for name in names
        }

    def _check(self, batches: list[Any], losses: list[dict[str, Tensor]], metrics: StepMetrics) -> bool:
        """Return whether the step can be made.

        Raises:
            NonFiniteError: it cannot, and is not to be left out.
        """
        is_loss_finite = all(map(math.isfinite, metrics.losses.values()))
        # With float16 the gradient may overflow: the scaler then leaves out the step, and scales by less.
        if is_loss_finite and (math.isfinite(metrics.norm) or self.scaler.is_enabled()):
            return True
        bad = [i for i, part in enumerate(losses) if not all(bool(v.isfinite()) for v in part.values())]
        part = bad[0] if bad else 0
        if is_loss_finite:
            symptom = f"the gradient's norm is {metrics.norm}; {self._bad_gradients()}"
        elif bad:
            symptom = str({name: float(v) for name, v in losses[part].items()})
        else:
            symptom = "a loss of another process is not finite"
        self._leave_out(self._non_finite(batches, part, symptom))
        return False

    def _leave_out(self, error: NonFiniteError, is_alone: bool = False) -> None:
        """Leave out the step, or raise the error; a process that is alone with it cannot leave it out for others."""
        if self._skipped >= self.skip_non_finite or (is_alone and comm.get_world_size() > 1):
            raise error
        self._skipped += 1
        for buffer, kept in zip(self.model.buffers(), self._kept_buffers, strict=True):
            buffer.copy_(kept)
        logger.warning(
            "Step left out, %d in a row (at most %d): %s", self._skipped, self.skip_non_finite, error
        )

    def _keep_buffers(self) -> None:
        """Keep the buffers where steps may be left out: a forward pass moves the running statistics of norms."""
        if self.skip_non_finite:
            self._kept_buffers = [buffer.clone() for buffer in self.model.buffers()]

    def _bad_gradients(self) -> str:
        """Name the parameters whose gradient is not finite."""
        parameters = unwrap(self.model).named_parameters()
        bad = [name for name, p in parameters if p.grad is not None and not p.grad.isfinite().all()]
        return f"{len(bad)} parameters have such a gradient: {listed(bad, 3)}"

    def _seed_step(self, part: int) -> None:
        shard = part * comm.get_world_size() + comm.get_rank()
        torch.manual_seed(mix_seed(self.seed, self.iter, shard))

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if enabled else None, enabled=enabled)

    def _without_gradient_sync(self) -> contextlib.AbstractContextManager:
        """Suppress, while open, the exchange of gradients between data parallel processes."""
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _non_finite(self, batches: list[Any], part: int, symptom: str) -> NonFiniteError:
        """Repeat a forward pass with the same random numbers, and return an error that names the first module.

        This process does so alone: it enters no collective operation, whatever the others do.
        """
        self._seed_step(part)
        model = unwrap(self.model)
        with (
            contextlib.suppress(FloatingPointError),
            torch.no_grad(),
            self._autocast(),
            without_process_group(),
            first_non_finite(model) as names,
        ):
            model(batches[min(part, len(batches) - 1)])
        where = names[0] if names else "no module (the loss itself, or the backward pass)"
        files = file_names(batches)
        pictures = f"; pictures: {listed(files, 8)}" if files else ""
        return NonFiniteError(
            f"loss or gradient not finite at iteration {self.iter}: {symptom}; first non-finite output: {where}"
            f"{pictures}{self._keep(batches)}. Lower optimizer.lr, set train.clip_grad_norm, use "
            "train.amp.dtype=bfloat16 or float32, or let steps be left out by train.non_finite.skip"
        )

    def _keep(self, batches: list[Any]) -> str:
        """Write the batch of this process into the run's folder, and say what the folder has."""
        if self.output_dir is None:
            return ""
        file = Path(self.output_dir) / f"non_finite_batch_rank{comm.get_rank()}.pth"
        with whole_file(file) as unfinished, open(unfinished, "wb") as opened:
            torch.save({"iteration": self.iter, "batches": as_plain(batches)}, opened)
        last = last_checkpoint(self.output_dir)
        return f"; the batch is in {file}; last finite checkpoint: {last or 'none'}"

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs in addition to the model's tensors."""
        numbers = {k: v for k, v in numbers_of(self.model).items() if self._initial_numbers.get(k) != v}
        state = super().state_dict() | {"iteration": self.last_step}
        return {**state, "scaler": self.scaler.state_dict(), "numbers": numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`.

        Raises:
            KeyError, ValueError: the state is not complete, is of another optimizer, or has values of other kinds.
        """
        step, scaler = state_dict["iteration"], state_dict["scaler"]
        numbers = state_dict.get("numbers", {})
        check_step(step)
        may_be_empty = self.scaler.is_enabled() or self.skip_non_finite > 0
        check_optimizer(state_dict["optimizer"], self.optimizer, may_be_empty)
        check_numbers(numbers, unwrap(self.model))
        if self.scaler.is_enabled() and scaler:
            check_scaler(scaler, self.scaler)
        super().load_state_dict(state_dict)
        self.last_step = step
        if self.scaler.is_enabled() and not scaler:
            logger.warning("The checkpoint is of a run without float16: its loss scaling starts anew.")
        else:
            self.scaler.load_state_dict(scaler)
        for key, value in numbers.items():
            name, _, attribute = key.rpartition(".")
            setattr(unwrap(self.model).get_submodule(name), attribute, value)


def numbers_of(model: nn.Module) -> dict[str, Number]:
    """Return the numbers that modules keep as plain attributes, by name.

    detectron2's one-stage detectors keep the running mean that normalises their loss in this way, and it is in no
    state dict.
    """
    return {
        f"{name}.{attribute}" if name else attribute: value
        for name, module in unwrap(model).named_modules()
        for attribute, value in vars(module).items()
        if type(value) in (int, float)
    }


@contextlib.contextmanager
def first_non_finite(model: nn.Module) -> Iterator[list[str]]:
    """Collect, while open, the names of modules in the order in which their outputs turn non-finite.

    A module that folds a norm into a convolution calls neither of them, so its own name is collected instead.
    """
    names: list[str] = []
    known = {module: name for name, module in model.named_modules()}

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in known and isinstance(output, Tensor) and not torch.isfinite(output).all():
            names.append(f"{known[module]} ({type(module).__name__})")

    # Hooks of single modules would change what is computed: norms that have hooks are not folded.
    handle = register_module_forward_hook(watch)
    try:
        yield names
    finally:
        handle.remove()
