"""Several trainings, several seeds each: every run in a process of its own, finished ones kept.

Their folder holds one folder a run, ``NAME/seed_N``, as the training scripts write them, and the settings
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

FINISHED = "finished"
SETTINGS = "settings.json"


def run_folder(folder: str | Path, name: str, seed: int) -> Path:
    """Where ``folder`` keeps this run."""
    return Path(folder) / name / f"seed_{seed}"


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end, last evaluation included."""
    return (folder / FINISHED).is_file()


def mark_finished(folder: Path) -> None:
    """Note that the run came to its end: its weights are written before the last evaluation."""
    (folder / FINISHED).touch()


@dataclass(frozen=True)
class RepeatedRuns:
    """Trainings by name, each with the seeds 0 to ``seeds`` - 1.

    Args:
        folder: where the runs are.
        commands: by name, the arguments of ``lesa``; seed and output folder are added.
        settings: what the runs share, as JSON has it; a folder holds runs of one value of each.
        seeds: runs of each training.
        jobs: runs at a time; they share the cores.
    """

    folder: Path
    commands: Mapping[str, Sequence[str]]
    settings: Mapping[str, object]
    seeds: int
    jobs: int

    def wanted(self) -> list[tuple[str, int]]:
        """Name and seed of every run; the first seed of all trainings comes first."""
        return [(name, seed) for seed in range(self.seeds) for name in self.commands]

    def keep_settings(self) -> None:
        """Note the settings in the folder, which is made.

        Raises:
            LesaError: the folder cannot be made, or holds runs of other settings.
        """
        file = make_folder(self.folder, "--output") / SETTINGS
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        theirs = {key: found[key] for key, value in self.settings.items() if found.get(key, value) != value}
        if theirs:
            ours = {key: self.settings[key] for key in theirs}
            raise LesaError(f"{self.folder} holds runs of {theirs}, not of {ours}; choose another --output")
        file.write_text(json.dumps({**found, **self.settings}, indent=1) + "\n", encoding="utf-8")

    def train(self) -> None:
        """Every run that is not finished, ``jobs`` at a time.

        Raises:
            LesaError: a run failed; those under way are finished before, and no other is started.
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
        """One run in a process of its own, which has its share of the cores."""
        folder = run_folder(self.folder, name, seed)
        folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "lesa_d2.cli",
                *self.commands[name],
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
