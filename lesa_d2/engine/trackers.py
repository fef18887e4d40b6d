"""Weights & Biases and MLflow: they receive the scalars that metrics.json has."""

import importlib.util
import json
import logging
import re
import threading
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from ..config.settings import has_key, settings_of
from ..errors import ConfigError, StoppedError
from ..storage import write_text

RECORD = "trackers.json"
"""File in the folder of a run with its identifier at each tracker, by which ``--resume`` continues it there."""
WINDOW = 20  # steps over which values are smoothed, as in detectron2's own files
PATIENCE = 60  # seconds that the end of a run waits for a tracker

logger = logging.getLogger("lesa_d2")


class Tracker(EventWriter):
    """Send the scalars of a run to a tracker, from a thread of its own, so that training never waits.

    What the tracker does not take is a warning: metrics.json has it.

    Args:
        folder: the folder of the run.
        settings: values of the run's config, by key.
        identifier: of the run that is continued; empty begins one.

    Attributes:
        identifier: of the run at the tracker; empty where it is told to keep none.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], identifier: str) -> None:
        self._last = -1  # the last step that was sent
        self._fails = False
        self._waiting: Queue = Queue()  # (step, values), and (None, error) at the end
        self.identifier = self._start(folder, settings, identifier)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self) -> None:
        """Have sent what is new since the last call."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if step > self._last:
                new[step][name] = value
        for item in sorted(new.items()):
            self._waiting.put(item)
        self._last = max([self._last, *new])

    def end(self, error: BaseException | None) -> None:
        """Say how the run ended, and wait up to :data:`PATIENCE` seconds until all is sent; once ended, do nothing."""
        if self._thread.is_alive():
            self._waiting.put((None, error))
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                logger.warning("%s has not taken all values after %d seconds", type(self).__name__, PATIENCE)

    def _work(self) -> None:
        """Send what is waiting, until the end of the run."""
        step, values = self._waiting.get()
        while step is not None:
            self._try(f"the values of step {step}", self._send, values, step)
            step, values = self._waiting.get()
        self._fails = False  # this is said in any case
        self._try("the end of the run", self._finish, values)

    def _try(self, what: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
            self._fails = False
        except Exception as error:  # of any library that carries the tracker's requests
            if not self._fails:  # a server that is away is one warning
                logger.warning("%s did not take %s: %s", type(self).__name__, what, error)
            self._fails = True

    @abstractmethod
    def _start(self, folder: Path, settings: dict[str, Any], identifier: str) -> str:
        """Begin or continue a run, and return its identifier."""

    @abstractmethod
    def _send(self, values: dict[str, float], step: int) -> None:
        """Send the values of one step."""

    @abstractmethod
    def _finish(self, error: BaseException | None) -> None:
        """End the run, which an error may have ended."""


class WeightsAndBiases(Tracker):
    """Send to the project that WANDB_PROJECT names; with WANDB_MODE=offline, to files in the folder of the run."""

    def _start(self, folder: Path, settings: dict[str, Any], identifier: str) -> str:
        import wandb

        self._run = wandb.init(
            dir=folder,
            name=folder.resolve().name,
            id=identifier or None,
            resume="allow" if identifier else None,
            config=settings,
            allow_val_change=True,  # a run may be resumed with other settings
            reinit="create_new",  # beside a run of the program that calls
        )
        # W&B refuses that its own steps go back, as those of a resumed run do.
        self._run.define_metric("*", step_metric="iteration")
        return "" if self._run.disabled else self._run.id

    def _send(self, values: dict[str, float], step: int) -> None:
        self._run.log({"iteration": step, **values})

    def _finish(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


class MLflow(Tracker):
    """Send to where MLFLOW_TRACKING_URI leads, into the experiment MLFLOW_EXPERIMENT_NAME."""

    def _start(self, folder: Path, settings: dict[str, Any], identifier: str) -> str:
        import mlflow

        self._client = mlflow.MlflowClient()
        self._names: dict[str, str] = {}  # as MLflow takes them
        if not identifier:
            with mlflow.start_run(run_name=folder.resolve().name, nested=True) as run:
                mlflow.log_params(settings)
            identifier = run.info.run_id
        self._client.update_run(identifier, status="RUNNING")
        return identifier

    def _send(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(self._name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self.identifier, metrics)

    def _name(self, name: str) -> str:
        """Return a name that MLflow takes, and that no other metric has."""
        if name not in self._names:
            parts = re.sub(r"[^\w./ -]", "_", name)[:200].split(
                "/", 1
            )  # a group, and what may be a class's name
            new = base = "/".join(part.replace("/", "_") if part.strip(".") else "_" for part in parts)
            while new in self._names.values():
                new = f"{base}_{len(self._names)}"
            self._names[name] = new
        return self._names[name]

    def _finish(self, error: BaseException | None) -> None:
        is_stopped = isinstance(error, StoppedError | KeyboardInterrupt)
        status = "KILLED" if is_stopped else "FAILED" if error else "FINISHED"
        self._client.set_terminated(self.identifier, status)


TRACKERS = {"wandb": WeightsAndBiases, "mlflow": MLflow}
"""The trackers by the name of their package, which is that in ``train.trackers``."""


def check_trackers(cfg: DictConfig) -> None:
    """Check that the packages of ``train.trackers`` are installed.

    Raises:
        ConfigError: one is not.
    """
    missing = [name for name in cfg.train.trackers if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"train.trackers={list(cfg.train.trackers)} needs packages that are not installed: "
            f"pip install {' '.join(missing)}"
        )


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # else a folder, such as the one that W&B makes


@contextmanager
def tracking(cfg: DictConfig, resume: bool) -> Iterator[list[Tracker]]:
    """Begin the run at each of ``train.trackers``, or continue it, and end it there with the block.

    Only the main process has trackers.

    Raises:
        ConfigError: a tracker cannot be started, or the record of an earlier start cannot be read.
    """
    if not comm.is_main_process():
        yield []
        return
    file = Path(cfg.train.output_dir) / RECORD
    known = _read_record(file) if resume else {}
    started: dict[str, Tracker] = {}
    failure: BaseException | None = None
    try:
        for name in cfg.train.trackers:
            started[name] = _start(name, cfg, known.get(name, ""), file)
        known.update({name: tracker.identifier for name, tracker in started.items() if tracker.identifier})
        write_text(file, json.dumps(known) + "\n") if known else file.unlink(missing_ok=True)
        yield list(started.values())
    except BaseException as error:
        failure = error
        raise
    finally:
        for tracker in started.values():
            tracker.end(failure)


def _start(name: str, cfg: DictConfig, identifier: str, file: Path) -> Tracker:
    """Start one tracker.

    Raises:
        ConfigError: it cannot be started.
    """
    try:
        return TRACKERS[name](file.parent, _settings(cfg), identifier)
    except Exception as error:
        way = (
            f"; {file} has run {identifier} to be continued: remove it to begin a new one"
            if identifier
            else ""
        )
        raise ConfigError(f"train.trackers: {name} cannot be started: {error}{way}") from error


def _read_record(file: Path) -> dict[str, str]:
    """Return the identifiers by tracker; none where there is no file.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} cannot be read ({error}): remove it to begin new runs at trackers"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, str) and v for v in found.values()):
        raise ConfigError(
            f"{file} must have an identifier by tracker, got {str(found)[:200]}: remove it to begin new runs"
        )
    return found


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the run that are in docs/settings.md, by key."""
    keys = [key for key in settings_of(cfg.train.task) if has_key(cfg, key)]
    values = {key: OmegaConf.select(cfg, key) for key in keys}
    return {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in values.items()
    }
