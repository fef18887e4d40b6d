"""SIGKILL at any moment: every file is whole, and the run ends as if nothing had happened."""

import os
import random
import signal
import time

from disturbed_runs import KEPT, STEPS, WEIGHTS, check_files

from lesa_d2.engine.hooks import Best, Saver

STAGES = ("while it is written", "before it has its name", "after it has its name")
WRITES = (
    "model_0000005.pth",
    "model_final.pth",
    "model_ema_final.pth",
    "model_best.pth",
    "last_checkpoint",
    "model_best.json",
)


def test_kills_at_random_moments(disturbed, tries, outcome):
    rng, kills, starts, seconds = random.Random(0), 0, 0, []
    number = tries(2, 50)
    folder = disturbed.folder("random")
    while kills < number:
        run = disturbed.start(folder, *(["--resume"] if folder.exists() else []))
        begin, starts = time.monotonic(), starts + 1
        moment = rng.uniform(0.2, max([4.0, *seconds]))
        while run.is_running() and time.monotonic() - begin < moment:
            time.sleep(0.01)
        if run.is_running():
            run.kill()
            kills += 1
        else:
            seconds.append(time.monotonic() - begin)
        status = run.wait()
        assert status in (0, -signal.SIGKILL), run.text()[-3000:]
        check_files(folder)
        if status == 0:
            disturbed.check_result(folder)
            folder = disturbed.folder(f"random_{starts}")
    disturbed.finish(folder)
    outcome(
        "SIGKILL at a random moment", str(kills), "resumed; weights and average bit-equal", f"{starts} starts"
    )


def kill_inside(name, stage):
    """Have this process kill itself inside of a write of the file ``name``."""
    replace = os.replace

    def replaced(source, target):
        is_it = os.path.basename(target) == name
        if is_it and stage == STAGES[0]:
            os.truncate(source, os.path.getsize(source) // 2)  # as a file of which half has been written
        if is_it and stage != STAGES[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced


def test_kills_inside_of_writes(disturbed, tries, outcome):
    """One of each kind of write, and of each stage, in turn."""
    number = tries(2, 36)
    for attempt in range(number):
        name, stage = WRITES[(attempt + 3) % len(WRITES)], STAGES[attempt // len(WRITES) % len(STAGES)]
        folder = disturbed.folder(f"aimed_{attempt}")
        run = disturbed.start(folder, before=lambda name=name, stage=stage: kill_inside(name, stage))
        assert run.wait() == -signal.SIGKILL, run.text()[-3000:]
        check_files(folder)
        disturbed.finish(folder)
    outcome(
        f"SIGKILL inside of a write: {', '.join(WRITES)}",
        str(number),
        "resumed; weights and average bit-equal",
        ", ".join(STAGES),
    )


def test_a_kill_before_an_old_checkpoint_is_removed(disturbed):
    """After the last step that saves."""

    def before():
        remove = Saver._remove_old
        Saver._remove_old = lambda self, step: (
            os.kill(os.getpid(), signal.SIGKILL) if step == STEPS - 1 else remove(self, step)
        )

    folder = disturbed.folder("removal")
    assert disturbed.start(folder, before=before).wait() == -signal.SIGKILL
    assert len(list(folder.glob("model_0*.pth"))) == KEPT + 1
    disturbed.finish(folder)


def test_a_kill_between_the_final_files(disturbed):
    """Of a run that has no other checkpoint."""
    folder = disturbed.folder("final")
    options = ("train.checkpointer.period=100", "train.eval_period=0", "train.best_metric=null")
    run = disturbed.start(
        folder, before=lambda: kill_inside("model_ema_final.pth", STAGES[1]), options=options
    )
    assert run.wait() == -signal.SIGKILL, run.text()[-3000:]
    run = disturbed.start(folder, "--resume", options=options)
    assert run.wait() == 0, run.text()[-3000:]
    disturbed.check_weights(folder, WEIGHTS[:2])


def test_an_evaluation_that_was_not_finished_is_made_up_for(disturbed):
    """Else the best weights of the whole run could be missed."""

    def before():
        Best.update = lambda self, results, step: os.kill(os.getpid(), signal.SIGKILL)

    folder = disturbed.folder("evaluation")
    assert disturbed.start(folder, before=before).wait() == -signal.SIGKILL
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    disturbed.finish(folder)
    assert "Evaluating step 3 again" in (folder / "log.txt").read_text()
