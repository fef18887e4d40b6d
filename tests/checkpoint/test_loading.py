import pytest
import torch
from torch import nn

from lesa_d2.checkpoint import LoadReport, ReportingCheckpointer
from lesa_d2.errors import CheckpointError


class Detector(nn.Module):
    def __init__(self, width=2, classes=3):
        super().__init__()
        self.backbone = nn.ModuleDict({"bottom_up": nn.Linear(width, 4, bias=False)})
        self.roi_heads = nn.ModuleDict(
            {"box_predictor": nn.ModuleDict({"cls_score": nn.Linear(4, classes + 1, bias=False)})}
        )


def load(tmp_path, saved, model):
    file = tmp_path / "weights.pth"
    torch.save(saved, file)
    checkpointer = ReportingCheckpointer(model)
    checkpointer.load(str(file), checkpointables=[], check=lambda report: None)
    return checkpointer.report


def test_everything_loaded(tmp_path):
    model = Detector()
    saved = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    report = load(tmp_path, {"model": saved}, model)
    assert report.share() == report.share("backbone.bottom_up.") == 1
    report.check_complete()
    report.check_start()
    assert model.backbone["bottom_up"].weight.sum() == 8


def test_a_bare_state_dict_loads_too(tmp_path):
    load(tmp_path, Detector().state_dict(), Detector()).check_complete()


def test_backbone_alone_is_a_usable_start(tmp_path):
    backbone = {"backbone.bottom_up.weight": torch.ones(4, 2)}
    report = load(tmp_path, backbone, Detector())
    assert report.share() == pytest.approx(8 / 24)
    report.check_start()
    assert "33.3% of the model (100.0% of the backbone, " in report.summary()
    with pytest.raises(
        CheckpointError, match=r"missing in the file: roi_heads.box_predictor.cls_score.weight"
    ):
        report.check_complete()


def test_other_classes_are_named(tmp_path):
    report = load(tmp_path, Detector(classes=80).state_dict(), Detector(classes=3))
    with pytest.raises(CheckpointError, match=r"the file has 80, model\.roi_heads\.num_classes is 3"):
        report.check_start()
    report.check_partial_start()


@pytest.mark.parametrize("check", [LoadReport.check_start, LoadReport.check_partial_start])
def test_another_backbone_is_refused(tmp_path, check):
    report = load(tmp_path, Detector(width=5).state_dict(), Detector())
    with pytest.raises(CheckpointError, match=r"\(4, 5\) in the file, \(4, 2\) expected"):
        check(report)


def test_unrelated_file_is_refused(tmp_path):
    report = load(tmp_path, {"something": torch.ones(1)}, Detector())
    with pytest.raises(CheckpointError, match="0% of the backbone fits"):
        report.check_partial_start()


def test_pickled_objects_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="plain tensors"):
        load(tmp_path, {"model": Detector()}, Detector())


def test_a_refused_model_leaves_the_rest_of_the_checkpoint_alone(tmp_path):
    """The optimizer's own complaint about other parameters would hide the reason."""
    other = Detector(width=5)
    file = tmp_path / "weights.pth"
    torch.save(
        {"model": other.state_dict(), "optimizer": torch.optim.SGD(other.parameters()).state_dict()}, file
    )
    model = Detector()
    checkpointer = ReportingCheckpointer(model, optimizer=torch.optim.SGD(model.backbone.parameters()))
    with pytest.raises(CheckpointError, match="is not a checkpoint of this model"):
        checkpointer.load(str(file))
