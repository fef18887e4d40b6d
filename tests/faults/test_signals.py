"""SIGTERM, SIGUSR1 and Ctrl-C: the state is saved after the step, and the exit status says so."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disturbed_runs import OPTIONS, STEPS, check_files
from forks import eventually
from runs import ROOT, tiny_options

from lesa_d2.engine import trainer as trainer_module
from lesa_d2.errors import INTERRUPTED, STOPPED

STATUS = {signal.SIGTERM: STOPPED, signal.SIGUSR1: STOPPED, signal.SIGINT: INTERRUPTED}


def steps_done(folder):
    """Numbers of the steps in metrics.json, a line for each."""
    file = folder / "metrics.json"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line["iteration"] for line in lines if "total_loss" in line]


def slowly():
    """Make every step take a tenth of a second longer."""
    step = trainer_module.Trainer.run_step
    trainer_module.Trainer.run_step = lambda self: (time.sleep(0.1), step(self))


def test_signals_at_any_moment(disturbed, tries, outcome):
    rng, number, lost = random.Random(1), tries(2, 30), []
    for attempt in range(number):
        folder = disturbed.folder(f"signal_{attempt}")
        asked = list(STATUS)[attempt % 3]
        run = disturbed.start(folder, before=slowly)
        eventually(lambda folder=folder: steps_done(folder))
        time.sleep(rng.uniform(0, 0.3))
        begun = len(steps_done(folder))
        run.kill(asked)
        assert run.wait() == STATUS[asked], run.text()[-3000:]
        assert f"Stopped by {asked.name}: step" in run.text()
        assert "Traceback" not in run.text()
        check_files(folder)
        saved = int((folder / "last_checkpoint").read_text()[6:13]) + 1
        lost.append(len(steps_done(folder)) - saved)
        assert begun <= saved < STEPS
        disturbed.finish(folder)
        assert steps_done(folder) == list(range(STEPS))
    assert max(lost) <= 0
    outcome("SIGTERM, SIGUSR1, SIGINT", str(number), "saved; bit-equal after --resume", "no step lost")


def test_a_second_signal_ends_at_once(disturbed):
    folder = disturbed.folder("twice")

    def before():
        slowly()
        step = trainer_module.Trainer.run_step
        trainer_module.Trainer.run_step = lambda self: (step(self), time.sleep(30 if self.iter == 2 else 0))

    run = disturbed.start(folder, before=before)
    eventually(lambda: len(steps_done(folder)) == 2)
    time.sleep(0.5)
    run.kill(signal.SIGTERM)
    eventually(lambda: "a second signal ends at once" in run.text())
    run.kill(signal.SIGTERM)  # forwarded: the same one
    time.sleep(1.2)
    run.kill(signal.SIGTERM)
    assert run.wait() == -signal.SIGTERM


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_to_all_processes_of_a_run(disturbed, number):
    """As clusters send it: to the processes of the loader as well."""
    folder = disturbed.folder(f"group_{number}")

    def before():
        os.setsid()
        slowly()

    run = disturbed.start(folder, before=before, options=("dataloader.train.num_workers=2",))
    eventually(lambda: steps_done(folder))
    os.killpg(run.pid, number)
    assert run.wait() == STATUS[number], run.text()[-3000:]
    assert run.text().count("the state is saved after this step") == 1
    assert "Traceback" not in run.text()
    disturbed.finish(folder)


def test_a_signal_during_an_evaluation_stops_it(disturbed):
    """An evaluation may take hours; it is made up for."""
    folder = disturbed.folder("during")

    def before():
        from lesa_d2.evaluation.coco import CocoEvaluator

        process = CocoEvaluator.process

        def slow(self, inputs, outputs):
            signal.raise_signal(signal.SIGUSR1)
            process(self, inputs, outputs)

        CocoEvaluator.process = slow

    run = disturbed.start(folder, before=before, options=("dataloader.test.batch_size=1",))
    assert run.wait() == STOPPED, run.text()[-3000:]
    assert f"Stopped by SIGUSR1: step 4 of {STEPS} is saved" in run.text()
    assert not (folder / "model_best.pth").exists()
    disturbed.finish(folder)


def test_a_signal_to_one_process_stops_all(disturbed, outcome):
    """Under torchrun, whose summary has the exit status of the process that ended first."""
    folder = disturbed.folder("torchrun")
    config, launcher = ROOT / "configs/quickstart_lesa.py", ["-m", "torch.distributed.run", "--standalone"]
    arguments = [*launcher, "--nproc-per-node", "2", ROOT / "train_net.py", "--config-file", config]
    options = tiny_options(folder, *OPTIONS, "train.max_iter=10000", "train.eval_period=0")
    with open(f"{folder}.log", "w") as log:
        command = [sys.executable, *map(str, [*arguments, *options])]
        agent = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    eventually(lambda: steps_done(folder) or agent.poll() is not None, patience=200)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGUSR1)
    text = Path(f"{folder}.log")
    assert agent.wait(timeout=120) == 1, text.read_text()[-3000:]
    assert f"exitcode  : {STOPPED} (" in text.read_text()
    assert "Stopped by SIGUSR1: step" in text.read_text()
    check_files(folder)
    saved = int((folder / "last_checkpoint").read_text()[6:13])
    assert saved == steps_done(folder)[-1]
    outcome("SIGUSR1 to one of two processes", "1", "both saved and stopped, status 75", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_of_the_host_program_come_back(number):
    from lesa_d2.engine.stopping import StopRequest

    before = signal.getsignal(number)
    with StopRequest() as request:
        signal.raise_signal(number)
        assert request.number == number
    assert signal.getsignal(number) is before
