"""LESA and its definition against numbers computed by the authors' released code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lesa_d2.checkpoint import convert_layer
from lesa_d2.checkpoint.names import LAYER_NAMES
from lesa_d2.layers import LESA
from lesa_d2.layers.definition import lesa

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
POSITIONS = {"classification": "flattened", "detection_qr": "decomposed"}
FILES = sorted(GOLDEN.glob("layer_*.npz"))


def arrays(data, kind):
    return {
        key.removeprefix(kind + "/"): torch.tensor(data[key])
        for key in data.files
        if key.startswith(kind + "/")
    }


def official_layer(data):
    meta = json.loads(str(data["meta"]))
    layer = LESA(
        meta["channels"],
        meta["channels"],
        stride=meta["stride"],
        num_heads=meta["heads"],
        feat_size=meta["feat_size"],
        positions=POSITIONS[meta["pe"]],
        deformable=meta["deformable"],
    )
    layer.load_state_dict(convert_layer(arrays(data, "param")), strict=True)
    return layer.train(meta["mode"] == "train")


def relative_error(ours, theirs):
    return float((ours.detach() - theirs).norm() / theirs.norm())


def test_all_reference_files_are_here():
    assert len(FILES) == 12


@pytest.mark.parametrize("compute", [LESA.forward, lesa], ids=["operator", "definition"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_outputs_gradients_and_running_statistics(file, compute):
    data = np.load(file)
    layer = official_layer(data)
    x = torch.tensor(data["input"]).requires_grad_()
    output = compute(layer, x)
    (output * torch.tensor(data["output_weight"])).sum().backward()

    assert relative_error(output, torch.tensor(data["output"])) < 1e-4
    assert relative_error(x.grad, torch.tensor(data["grad_input"])) < 1e-4

    gradients = arrays(data, "grad")
    parameters = dict(layer.named_parameters())
    assert len(gradients) == len(parameters)
    typical = float(np.median([gradient.norm() for gradient in gradients.values()]))
    for name, theirs in gradients.items():
        ours = parameters[LAYER_NAMES.ours(name)].grad
        if (
            name == "bn_similarity.bias"
        ):  # constant over keys: its true gradient is zero, the rest is rounding
            assert max(ours.norm(), theirs.norm()) < 1e-5 * typical
        else:
            assert relative_error(ours, theirs.view_as(ours)) < 1e-4, name

    buffers = dict(layer.named_buffers())
    for name, theirs in arrays(data, "after").items():
        assert relative_error(buffers[LAYER_NAMES.ours(name)], theirs) < 1e-4, name
