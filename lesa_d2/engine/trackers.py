"""Weights & Biases and MLflow: they receive the scalars that metrics.json has."""

import importlib.util
import json
import logging
import posixpath
import re
import sys
from abc import abstractmethod
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from ..config.settings import has_key, settings_of
from ..errors import ConfigError, StoppedError
from ..storage import write_text

RECORD = "trackers.json"
"""File in the folder of a run: its identifier at each tracker, by which ``--resume`` continues it there."""
WINDOW = 20  # steps over which values are smoothed, as in detectron2's own files

logger = logging.getLogger("lesa_d2")


class Tracker(EventWriter):
    """Send the scalars of a run to a tracker.  What it does not take is a warning: metrics.json has it.

    Args:
        folder: the folder of the run.
        settings: values of the run's config, by key.
        identifier: of the run that is continued; None begins one.

    Attributes:
        identifier: of the run at the tracker.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], identifier: str | None) -> None:
        self._last = -1  # the last step that was sent
        self.identifier = self._start(folder, settings, identifier)

    def write(self) -> None:
        """Send what is new since the last call."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if step > self._last:
                new[step][name] = value
        for step, values in sorted(new.items()):
            self._last = step
            try:
                self._send(values, step)
            except Exception as error:  # of any library that carries the tracker's requests
                logger.warning("%s did not take the values of step %d: %s", type(self).__name__, step, error)

    def close(self) -> None:
        """Send what is left, and say how the run ended."""
        try:
            self._finish(sys.exc_info()[1])
        except Exception as error:
            logger.warning("%s was not told of the end of the run: %s", type(self).__name__, error)

    @abstractmethod
    def _start(self, folder: Path, settings: dict[str, Any], identifier: str | None) -> str:
        """Begin or continue a run, and return its identifier."""

    @abstractmethod
    def _send(self, values: dict[str, float], step: int) -> None:
        """Send the values of one step."""

    @abstractmethod
    def _finish(self, error: BaseException | None) -> None:
        """End the run, which an error may have ended."""


class WeightsAndBiases(Tracker):
    """Send to the project that WANDB_PROJECT names; with WANDB_MODE=offline, to files in the folder of the run."""

    def _start(self, folder: Path, settings: dict[str, Any], identifier: str | None) -> str:
        import wandb

        self._run = wandb.init(
            dir=folder,
            name=folder.resolve().name,
            id=identifier,
            resume="allow" if identifier else None,
            config=settings,
            allow_val_change=True,  # a run may be resumed with other settings
        )
        # W&B refuses that its own steps go back, as those of a resumed run do.
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def _send(self, values: dict[str, float], step: int) -> None:
        self._run.log({"iteration": step, **values})

    def _finish(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


class MLflow(Tracker):
    """Send to where MLFLOW_TRACKING_URI leads, into the experiment MLFLOW_EXPERIMENT_NAME."""

    def _start(self, folder: Path, settings: dict[str, Any], identifier: str | None) -> str:
        import mlflow

        self._client = mlflow.MlflowClient()
        if identifier is None:
            with mlflow.start_run(run_name=folder.resolve().name) as run:
                mlflow.log_params(settings)
            identifier = run.info.run_id
        self._client.update_run(identifier, status="RUNNING")
        return identifier

    def _send(self, values: dict[str, float], step: int) -> None:
        import mlflow

        named = {posixpath.normpath(re.sub(r"[^\w./ -]", "_", name)): value for name, value in values.items()}
        mlflow.log_metrics(named, step=step, run_id=self.identifier)

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
    missing = [name for name in cfg.train.trackers if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"train.trackers={list(cfg.train.trackers)} needs packages that are not installed: "
            f"pip install {' '.join(missing)}"
        )


def start_trackers(cfg: DictConfig, resume: bool) -> list[Tracker]:
    """Begin the run at each of ``train.trackers``, or continue it where the folder of the run knows it.

    Raises:
        ConfigError: a tracker cannot be started.
    """
    folder = Path(cfg.train.output_dir)
    known = _read_record(folder / RECORD) if resume else {}
    started = {}
    for name in cfg.train.trackers:
        try:
            started[name] = TRACKERS[name](folder, _settings(cfg), known.get(name))
        except Exception as error:
            raise ConfigError(f"train.trackers: {name} cannot be started: {error}") from error
    known.update({name: tracker.identifier for name, tracker in started.items()})
    write_text(folder / RECORD, json.dumps(known) + "\n") if known else (folder / RECORD).unlink(
        missing_ok=True
    )
    return list(started.values())


def _read_record(file: Path) -> dict[str, str]:
    """Return the identifiers by tracker; none, with a warning, where the file cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {name: found[name] for name in TRACKERS if isinstance(found.get(name), str)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s cannot be read, so that trackers begin a new run: %s", file, error)
        return {}


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the run that are in docs/settings.md, by key."""
    keys = [key for key in settings_of(cfg.train.task) if has_key(cfg, key)]
    values = {key: OmegaConf.select(cfg, key) for key in keys}
    return {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in values.items()
    }
