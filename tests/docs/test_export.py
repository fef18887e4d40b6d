"""Everything that docs/export.md tells to run."""

import sys

import torch
from detectron2.config import LazyConfig
from pages import ROOT, blocks, run

from lesa_d2.engine import load_config
from lesa_d2.engine.run import build_model

sys.path.append(str(ROOT / "tests/engine"))


def test_commands_and_snippet(tmp_path):
    from runs import tiny_options

    folder = tmp_path / "output/quickstart/lesa"
    folder.mkdir(parents=True)
    cfg = load_config("quickstart_lesa", [*tiny_options("output/quickstart/lesa"), "train.device=cpu"])
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    (tmp_path / "projects").symlink_to(ROOT / "projects")

    (command,) = blocks("export", "bash")
    table = run(command, "bash", tmp_path)
    assert "output/export/backbone.pt2" in table
    assert "output/export/backbone.onnx" in table
    (snippet,) = blocks("export", "python")
    assert run(snippet, "python", tmp_path).strip() == "(1, 64, 56, 80)"
