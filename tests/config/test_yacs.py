import pytest
from detectron2.config import CfgNode
from omegaconf import DictConfig

from lesa_d2.config import load_any_config, load_config, load_yacs_config, save_config
from lesa_d2.errors import ConfigError
from lesa_d2.modeling.build import build_yacs_model

YACS = "yacs/mask_rcnn_lesa_r50"


def test_the_kind_is_the_files(tmp_path):
    assert isinstance(load_any_config("quickstart_lesa", ["train.max_iter=3"]), DictConfig)
    saved = save_config(load_config("quickstart_lesa"), tmp_path)
    assert isinstance(load_any_config(str(saved)), DictConfig)
    cfg = load_any_config(YACS, ["MODEL.LESA.NUM_HEADS=4", "MODEL.WEIGHTS=", "SOLVER.STEPS=(5, 7)"])
    assert isinstance(cfg, CfgNode)
    assert (cfg.MODEL.LESA.NUM_HEADS, cfg.MODEL.WEIGHTS, cfg.SOLVER.STEPS) == (4, "", (5, 7))
    (tmp_path / "mine.yaml").write_text(cfg.dump())
    assert load_any_config(str(tmp_path / "mine.yaml")).MODEL.LESA == cfg.MODEL.LESA


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("MODEL.LESA.OPERATR=conv", "Non-existent key"),
        ("MODEL.LESA.NUM_HEADS=four", "Type mismatch"),
        ("MODEL.LESA", "not of the form key=value"),
    ],
)
def test_overrides_that_do_not_fit(override, words):
    with pytest.raises(ConfigError, match=words) as error:
        load_any_config(YACS, [override])
    assert override.partition("=")[0] in str(error.value)


@pytest.mark.parametrize("content", ["MODEL:\n  NONE: 1\n", "MODEL: [\n"])
def test_files_that_do_not_fit(content, tmp_path):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml' cannot be loaded"):
        load_yacs_config(str(tmp_path / "x.yaml"))


def test_values_that_make_no_model():
    cfg = load_any_config(YACS, ["MODEL.DEVICE=cpu", "MODEL.LESA.OPERATOR=nothing"])
    with pytest.raises(ConfigError, match="cannot be built: operator must be one of"):
        build_yacs_model(cfg)
