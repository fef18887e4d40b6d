"""Several trainings with several seeds each: every run has its own process, and finished runs are kept.

Their folder holds one folder for each run, ``NAME/seed_N``, as the training scripts write them, and the settings
that the runs have in common.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ...engine.folder import make_folder
from ...errors import LesaError
from ...storage import write_text

FINISHED = "finished"
SETTINGS = "settings.json"


def run_folder(folder: str | Path, name: str, seed: int) -> Path:
    """Return the folder of this run in ``folder``."""
    return Path(folder) / name / f"seed_{seed}"


def is_finished(folder: Path) -> bool:
    """Tell whether the run in ``folder`` has ended, including its last evaluation."""
    return (folder / FINISHED).is_file()


def mark_finished(folder: Path) -> None:
    """Mark the run as ended; its weights alone do not tell, as they are written before the last evaluation."""
    (folder / FINISHED).touch()


@dataclass(frozen=True)
class RepeatedRuns:
    """Describe trainings by name, each with the seeds 0 to ``seeds`` - 1.

    Args:
        folder: where the runs are.
        commands: the arguments of ``lesa`` by name; seed and output folder are added.
        settings: settings that all runs share, as JSON values; all runs in a folder have the same.
        seeds: runs of each training.
        jobs: runs at a time; they share the cores.
    """

    folder: Path
    commands: Mapping[str, Sequence[str]]
    settings: Mapping[str, object]
    seeds: int
    jobs: int

    def wanted(self) -> list[tuple[str, int]]:
        """Return name and seed of every run; the first seed of all trainings comes first."""
        return [(name, seed) for seed in range(self.seeds) for name in self.commands]

    def keep_settings(self) -> None:
        """Write the settings into the folder, which is created.

        Raises:
            LesaError: the folder cannot be made, or holds runs of other settings.
        """
        file = make_folder(self.folder, "--output") / SETTINGS
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        theirs = {k: earlier[k] for k, value in self.settings.items() if earlier.get(k, value) != value}
        if theirs:
            ours = {key: self.settings[key] for key in theirs}
            raise LesaError(f"{self.folder} holds runs of {theirs}, not of {ours}; choose another --output")
        write_text(file, json.dumps({**earlier, **self.settings}, indent=1) + "\n")

    def train(self) -> None:
        """Train every run that is not finished, ``jobs`` at a time.

        Raises:
            LesaError: a run failed; the runs in progress are finished first, and no other run is started.
        """
        missing = [run for run in self.wanted() if not is_finished(run_folder(self.folder, *run))]
        with ThreadPoolExecutor(self.jobs) as pool:
            runs = [pool.submit(self._train_one, name, seed) for name, seed in missing]
            try:
                for run in tqdm(as_completed(runs), total=len(runs), desc="Training", unit="run"):
                    run.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _train_one(self, name: str, seed: int) -> None:
        """Train one run in its own process, which uses its share of the cores."""
        folder = run_folder(self.folder, name, seed)
        command, *options = self.commands[name]
        folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "lesa_d2.cli",
                command,
                "--resume",  # a run that was stopped
                *options,
                f"train.seed={seed}",
                f"train.output_dir={folder}",
            ],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LesaError(f"{name}, seed {seed} failed:\n{(done.stderr or done.stdout)[-2000:]}")
        mark_finished(folder)
