"""Runs of pretrain_imagenet.py: files, resuming, options, bad input, and the start of a detector."""

import shutil

import pytest
import torch
from detectron2.config import instantiate
from runs import (
    CLASSIFIER,
    ROOT,
    TINY_CLASSIFIER,
    initial_weights,
    losses,
    pretrain,
    train,
    train_net,
    weights,
)
from torch import nn

from lesa_d2.data import generate_shape_images
from lesa_d2.engine import load_config
from lesa_d2.engine.classification import set_schedule
from lesa_d2.evaluation import TopAccuracy


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An ImageFolder tree as a user has one."""
    return generate_shape_images(
        tmp_path_factory.mktemp("data") / "pictures", num_images=150, image_size=40, seed=0
    )


@pytest.fixture(scope="module")
def start(data):
    """Trains in this process; returns the exit status."""

    def start(output_dir, *extra, flags=()):
        options = [*TINY_CLASSIFIER, f"train.output_dir={output_dir}", *extra]
        arguments = ["--config-file", CLASSIFIER, "--data", str(data), *flags, *options]
        return pretrain(arguments)

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """Four iterations, saved after every second, with averaged weights."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert start(folder, "train.checkpointer.period=2", "train.ema.enabled=True") == 0
    return folder


def test_output_folder_holds_what_users_expect(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.json", "model_final.pth", "model_best.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    log = (finished / "log.txt").read_text()
    for words in (
        "eta:",
        "train 150, val 12",
        "12: circle_on_gradient",
        "8 images a step",
        "top1,top5",
        "RGB",
    ):
        assert words in log


def test_resumed_run_equals_the_uninterrupted_one_exactly(finished, start, tmp_path):
    interrupted = tmp_path / "run"
    interrupted.mkdir()
    shutil.copy(finished / "model_0000001.pth", interrupted)
    (interrupted / "last_checkpoint").write_text("model_0000001.pth")
    assert start(interrupted, "train.ema.enabled=True", flags=["--resume"]) == 0
    for file in ("model_final.pth", "model_ema_final.pth"):
        torch.testing.assert_close(weights(interrupted, file), weights(finished, file), rtol=0, atol=0)


def stored_norms(folder):
    """Options for norms whose statistics are stored, and initial weights to start from."""
    norms = "model.backbone.norm=EvalBN"
    return [
        norms,
        initial_weights(folder / "start.pth", CLASSIFIER, *TINY_CLASSIFIER, norms, "train.device=cpu"),
    ]


def test_workers_and_accumulation_change_nothing_but_rounding(finished, start, tmp_path):
    assert start(tmp_path / "workers", "train.ema.enabled=True", "dataloader.train.num_workers=2") == 0
    assert losses(tmp_path / "workers") == losses(finished)
    norms = stored_norms(tmp_path)
    assert start(tmp_path / "whole", *norms) == 0
    assert start(tmp_path / "parts", *norms, "train.accumulate=2") == 0
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_evaluation_alone_sees_what_training_evaluated(finished, start, data, tmp_path, monkeypatch):
    """The averaged weights, on pictures for which nothing but val is there."""
    alone = tmp_path / "pictures"
    shutil.copytree(data / "val", alone / "val")
    seen = []
    monkeypatch.setattr(TopAccuracy, "process", lambda self, inputs, outputs: seen.append((inputs, outputs)))
    assert start(finished, flags=["--eval-only", "--data", str(alone)]) == 0
    cfg = load_config(str(finished / "config.yaml"))
    model = instantiate(cfg.model).eval()
    model.load_state_dict(weights(finished, "model_ema_final.pth"))
    assert sum(len(outputs) for _, outputs in seen) == 12
    for inputs, outputs in seen:
        torch.testing.assert_close(outputs, model(inputs).detach())


def test_everything_at_once(start, tmp_path):
    """What a user of today switches on together."""
    options = (
        "train.amp.enabled=True train.ema.enabled=True model.label_smoothing=0.1 model.mixup=0.2 "
        "model.cutmix=1.0 train.accumulate=2 train.channels_last=True train.clip_grad_norm=1"
    )
    assert start(tmp_path / "run", *options.split()) == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert "bfloat16, channels_last" in log
    assert weights(tmp_path / "run")["backbone.res2.0.conv2.weight"].is_contiguous(
        memory_format=torch.channels_last
    )


def test_compile_concerns_the_backbone_alone(start, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    assert start(tmp_path / "run", "train.compile=True", "train.max_iter=1") == 0
    assert compiled == ["ResNet"]


def test_compiling_without_a_compiler_is_one_clear_message(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert start(tmp_path / "run", "train.compile=True") == 2
    assert "no-such-compiler" in capsys.readouterr().err


def test_two_processes_under_torchrun_train_as_one(data, start, tmp_path):
    norms = stored_norms(tmp_path)
    assert start(tmp_path / "one", *norms) == 0
    options = [*TINY_CLASSIFIER, *norms, f"train.output_dir={tmp_path / 'two'}"]
    result = train_net(
        "--config-file",
        CLASSIFIER,
        "--data",
        data,
        *options,
        launcher=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        script=ROOT / "projects/LESA/pretrain_imagenet.py",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


# --------------------------------------------------------------------------------------------- schedule


def test_schedule_follows_the_size_of_the_data():
    cfg = load_config(str(ROOT / "configs/imagenet_lesa_r50.py"))
    set_schedule(cfg, 1281167)
    assert cfg.train.max_iter == 950866  # what the config says
    assert cfg.train.eval_period == cfg.train.checkpointer.period == 10009
    assert cfg.train.epochs is None  # a saved config keeps its iterations
    cfg.train.epochs = 95
    assert "95 epochs of 6,400 images are 4,750 iterations" in set_schedule(cfg, 6400)
    assert (cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period) == (4750, 50, 50)


# -------------------------------------------------------------------------------------------- accuracy


def test_accuracy_by_hand(monkeypatch):
    evaluator = TopAccuracy()
    logits = torch.zeros(4, 7)
    logits[0, 3] = 1.0  # right
    logits[1] = torch.tensor([7.0, 6, 5, 4, 3, 2, 1])  # class 4 is fifth
    logits[2] = torch.tensor([7.0, 6, 5, 4, 3, 2, 1])  # class 5 is sixth
    logits[3, 1] = 1.0  # right
    evaluator.process({"label": torch.tensor([3, 4, 5, 1])}, logits)
    assert evaluator.evaluate() == {"accuracy": {"top1": 50.0, "top5": 75.0}}
    evaluator.reset()
    evaluator.process({"label": torch.tensor([0, 1])}, torch.tensor([[1.0, 0], [1.0, 0]]))
    assert evaluator.evaluate() == {"accuracy": {"top1": 50.0, "top5": 100.0}}


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("extra", "flags", "message"),
    [
        (
            [],
            ["--data", "/nowhere"],
            "no folder /nowhere/train; expected images",
        ),
        (["model.backbone.num_classes=5"], [], "num_classes=5, but "),
        (["train.best_metric=segm/AP"], [], "'accuracy/top1'"),
        (["train.epochs=0"], [], "train.epochs must be a positive number or null, got 0"),
        (["model.mixup=-1"], [], "model.mixup must be a number of at least 0, got -1"),
        (["model.label_smoothing=1"], [], "model.label_smoothing must be a number from 0 to below 1"),
        (["dataloader.train.num_workers=-1"], [], "num_workers must be a whole number of at least 0, got -1"),
        (["dataloader.test.batch_size=0"], [], "batch_size must be a whole number of at least 1, got 0"),
        (
            ["lr_multiplier.lengths=[1,2]"],
            [],
            "lr_multiplier cannot be built: The sum of all values in lengths",
        ),
        (["train.accumulate=3"], [], "use a multiple of 3"),
    ],
)
def test_bad_input_is_one_message(start, tmp_path, capsys, extra, flags, message):
    assert start(tmp_path / "run", *extra, flags=flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error: ") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(data, tmp_path, capsys, workers):
    broken = tmp_path / "pictures"
    shutil.copytree(data, broken)
    for file in (broken / "train").rglob("*.jpg"):
        file.write_bytes(b"text")
    options = [
        *TINY_CLASSIFIER,
        f"train.output_dir={tmp_path / 'run'}",
        f"dataloader.train.num_workers={workers}",
    ]
    arguments = ["--config-file", CLASSIFIER, "--data", str(broken), *options]
    assert pretrain(arguments) == 2
    out, error = capsys.readouterr()
    assert f"error: {broken}/train/" in error
    assert "cannot be read as an image" in error
    assert "Traceback" not in error + out


@pytest.mark.parametrize(
    ("command", "config", "message"),
    [
        (train, CLASSIFIER, "lesa pretrain takes it"),
        (pretrain, str(ROOT / "configs/mask_rcnn_conv_r50.py"), "lesa train takes it"),
    ],
)
def test_a_config_of_the_other_script_is_refused(command, config, message, tmp_path, capsys):
    assert command(["--config-file", config, f"train.output_dir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err


# ----------------------------------------------------------------------------------- start of a detector

DETECTOR = [
    "model.backbone.bottom_up.base_channels=8",
    "model.backbone.bottom_up.stem_channels=8",
    "model.backbone.bottom_up.num_heads=4",
]


def train_detector(folder, datasets, *extra):
    from runs import tiny_options

    options = tiny_options(folder, *DETECTOR, "train.max_iter=1", *extra)
    return train(["--config-file", str(ROOT / "configs/quickstart_lesa.py"), *options])


def test_a_detector_starts_from_the_classifier_and_says_what_it_got(finished, datasets, tmp_path, capsys):
    source = finished / "model_ema_final.pth"
    assert (
        train_detector(tmp_path / "run", datasets, f"train.init_checkpoint={source}", "optimizer.lr=1e-12")
        == 0
    )
    report = (tmp_path / "run/weights.txt").read_text()
    ours, theirs = weights(tmp_path / "run"), weights(finished, "model_ema_final.pth")
    convolutions = [name for name in theirs if theirs[name].dim() == 4]
    assert f"{len(convolutions)} of its {len(convolutions)} convolutions" in report
    for name in convolutions:
        detector_name = name.replace("backbone.", "backbone.bottom_up.")
        torch.testing.assert_close(ours[detector_name], theirs[name], rtol=1e-4, atol=1e-5)
        assert f"{detector_name} " in report
    lines = {line.split()[0]: line for line in report.splitlines() if "." in line.split(" ")[0]}
    term = "backbone.bottom_up.res4.1.conv2.binary"
    assert lines[f"{term}.logit_norm.weight"].endswith("converted: channels of the first 2 of 3 logit terms")
    assert lines[f"{term}.out_norm.bias"].endswith("converted: even channels, of the attended values")
    assert lines[f"{term}.positions.rel_width"].endswith("initial value")
    assert lines["backbone.linear.weight"].endswith("not used: detectors have no classifier")
    assert lines["backbone.fpn_lateral2.weight"].endswith("initial value")
    assert set(ours) <= set(lines)
    log = (tmp_path / "run/log.txt").read_text()
    assert "convolutions) from" in log


def test_a_classifier_of_another_network_is_refused(finished, datasets, tmp_path, capsys):
    start = f"train.init_checkpoint={finished / 'model_final.pth'}"
    assert train_detector(tmp_path / "run", datasets, start, "model.backbone.bottom_up.blocks=[1,2,2,1]") == 2
    error = capsys.readouterr().err
    assert "missing in the file: backbone.bottom_up.res3.1" in error
    assert error.count("error: ") == 1
