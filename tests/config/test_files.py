import pytest

from lesa_d2.config import files as config_files
from lesa_d2.config.files import configs_folder, find_config
from lesa_d2.engine import load_config
from lesa_d2.errors import ConfigError


def test_names_are_stems_and_yacs_keeps_its_folder():
    names = config_files.config_files()
    assert names["mask_rcnn_lesa_r50"] == configs_folder() / "mask_rcnn_lesa_r50.py"
    assert names["yacs/mask_rcnn_lesa_r50"] == configs_folder() / "yacs/mask_rcnn_lesa_r50.yaml"
    assert not any(name.startswith("common") for name in names)


@pytest.mark.parametrize("name", ["mask_rcnn_lesa_r50", "mask_rcnn_lesa_r50.py"])
def test_a_suffix_is_accepted(name):
    assert find_config(name).name == "mask_rcnn_lesa_r50.py"


@pytest.mark.parametrize(
    "name", ["mask_rcn_lesa_r50", "configs/mask_rcnn_lesa_r50.py", "mask_rcnn_lesa_r5.yaml"]
)
def test_an_unknown_name_names_the_nearest(name):
    with pytest.raises(ConfigError, match=r"no config is named .*; did you mean 'mask_rcnn_lesa_r50'"):
        find_config(name)


def test_a_name_like_no_other():
    with pytest.raises(ConfigError, match="lesa zoo lists the names"):
        find_config("zzzzzz")


def test_a_config_beside_the_modules_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "__file__", str(tmp_path / "lesa_d2/config/files.py"))
    assert configs_folder() == tmp_path / "configs"
    (tmp_path / "lesa_d2/configs").mkdir(parents=True)
    assert configs_folder() == tmp_path / "lesa_d2/configs"


def test_training_takes_a_name_where_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config("quickstart_lesa", ["train.max_iter=7"])
    assert (cfg.train.max_iter, cfg.train.output_dir) == (7, "./output/quickstart_lesa")
    with pytest.raises(ConfigError, match=r"config file 'quickstart_les' does not exist.*'quickstart_lesa'"):
        load_config("quickstart_les")
    with pytest.raises(ConfigError, match="yacs"):
        load_config("yacs/mask_rcnn_lesa_r50")


def test_a_file_of_the_users_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart_lesa.py").write_text(
        "model = dataloader = optimizer = lr_multiplier = {}\ntrain = dict(mine=1)"
    )
    assert load_config("quickstart_lesa.py").train.mine == 1


@pytest.mark.parametrize("depth", [100, 150, 300])
def test_a_config_that_is_nested_too_deeply_is_a_short_message(depth, tmp_path):
    """OmegaConf's message has three lines for each section."""
    (tmp_path / "deep.yaml").write_text("a: " + "{b: " * depth + "1" + "}" * depth)
    override = "dataloader.train.mapper=" + "{b: " * depth + "1" + "}" * depth
    for file, overrides in ((str(tmp_path / "deep.yaml"), []), ("quickstart_lesa", [override])):
        with pytest.raises(ConfigError) as caught:
            load_config(file, overrides)
        assert len(str(caught.value).splitlines()) < 20
