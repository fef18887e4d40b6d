"""detectron2's SimpleTrainer with accumulation, mixed precision, clipping, and a state that resumes exactly.

The random numbers of iteration k depend on (train.seed, k, process, micro-batch) only, so a resumed run draws the
same ones, and W processes draw the same ones as one process with W micro-batches.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ..checkpoint import unwrap
from ..data.loader import mix_seed
from ..errors import ConfigError, NonFiniteError
from .device import PRECISIONS

Number = int | float


class Trainer(SimpleTrainer):
    """Make one optimizer step from ``accumulate`` micro-batches.

    Args:
        model: returns a loss, or a dict of losses, in training.
        data_loader: yields micro-batches; may be given later, before training.
        optimizer: torch optimizer.
        seed: non-negative.
        accumulate: micro-batches in one step; the losses are averaged over them.
        precision: "float32", or "bfloat16" / "float16" for autocast (the latter with loss scaling).
        clip_grad_norm: limit of the 2-norm of the gradient; None sets no limit.

    Raises:
        NonFiniteError: a loss is not finite; the message names the first module with a non-finite output.
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
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if precision not in PRECISIONS:
            raise ConfigError(f"train.amp.dtype must be one of {sorted(PRECISIONS)}, got {precision!r}")
        self.seed = seed
        self.accumulate = accumulate
        self.precision = PRECISIONS[precision]
        self.clip_grad_norm = clip_grad_norm
        self.device = next(model.parameters()).device
        self.last_results: dict[str, Any] = {}
        self._batches: Iterator[Any] | None = None
        self._initial_numbers = numbers_of(model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    def run_step(self) -> None:
        """Make one optimizer step, and write its losses."""
        if self._batches is None:
            self._batches = iter(self.data_loader)
        self.optimizer.zero_grad()
        means: dict[str, Tensor] = {}
        data_time = 0.0
        for part in range(self.accumulate):
            start = time.perf_counter()
            data = next(self._batches)
            data_time += time.perf_counter() - start
            losses = self._forward_backward(data, part)
            for name, value in losses.items():
                means[name] = means.get(name, 0) + value.detach() / self.accumulate
        self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        SimpleTrainer.write_metrics(means, data_time, self.iter)

    def _forward_backward(self, data: Any, part: int) -> Mapping[str, Tensor]:
        self._seed_step(part)
        is_last = part == self.accumulate - 1
        with contextlib.nullcontext() if is_last else self._without_gradient_sync():
            try:
                with self._autocast():
                    output = self.model(data)
            except FloatingPointError as error:  # detectron2 checks its proposals
                self._raise_non_finite(data, part, str(error))
            losses = {"loss": output} if isinstance(output, Tensor) else output
            total = sum(losses.values(), torch.zeros((), device=self.device))
            if not torch.isfinite(total):
                self._raise_non_finite(data, part, str({k: float(v.detach()) for k, v in losses.items()}))
            self.scaler.scale(total / self.accumulate).backward()
        return losses

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

    def _clip(self) -> None:
        if self.clip_grad_norm is None:
            return
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        self.storage.put_scalar("grad_norm", float(norm))

    def _raise_non_finite(self, data: Any, part: int, symptom: str) -> NoReturn:
        """Repeat the forward pass with the same random numbers, and raise an error that names the first module."""
        self._seed_step(part)
        with (
            contextlib.suppress(FloatingPointError),
            torch.no_grad(),
            self._autocast(),
            first_non_finite(self.model) as names,
        ):
            self.model(data)
        where = names[0] if names else "no module (the loss itself)"
        raise NonFiniteError(
            f"loss not finite at iteration {self.iter}: {symptom}; first non-finite output: {where}. "
            "Lower optimizer.lr, set train.clip_grad_norm, or use train.amp.dtype=bfloat16 or float32"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs in addition to the model's tensors."""
        numbers = {k: v for k, v in numbers_of(self.model).items() if self._initial_numbers.get(k) != v}
        return {**super().state_dict(), "scaler": self.scaler.state_dict(), "numbers": numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self.scaler.load_state_dict(state_dict["scaler"])
        for key, value in state_dict.get("numbers", {}).items():
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
