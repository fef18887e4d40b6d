"""Files and command lines with random mistakes: one of the documented errors or a result, and nothing runs.

``LESA_FUZZ=10000 pytest tests/faults/test_fuzz.py`` tries 10,000 inputs; the tests try 300.
"""

import copy
import functools
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from runs import TINY, TINY_CLASSIFIER
from test_trust import CODE

from lesa_d2.checkpoint import read_checkpoint, to_official
from lesa_d2.checkpoint.conversion import CONVERSIONS, convert_file
from lesa_d2.checkpoint.safetensors import write_safetensors
from lesa_d2.config import configs_folder, load_any_config, load_config, load_yacs_config
from lesa_d2.config.lazy import apply_overrides
from lesa_d2.config.settings import check_settings
from lesa_d2.config.yaml_form import plain
from lesa_d2.engine import build_model
from lesa_d2.errors import LesaError
from lesa_d2.predictor import Predictor
from lesa_d2.tools.doctor import main, report

INPUTS = int(os.environ.get("LESA_FUZZ", 300))
SHARES = {
    "overrides": 0.3,
    "overrides of yacs": 0.1,
    "values of yaml": 0.1,
    "texts of yaml": 0.2,
    "checkpoints": 0.2,
    "converter": 0.04,
    "doctor": 0.04,
    "predictor": 0.02,
}
RUNS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "pty.spawn",
    "pickle.find_class",
)

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 1.5, -0.5, 2, 1e300, float("nan"), float("inf"), 10**30, 2**31),
    *("", "a", "0", "é", "x" * 300, "a/b", "../..", "~", "null", "[", "cpu", "cuda:9", "\ud800", "\0"),
    *("${x}", "${train.seed}", "${..a}", "${", "${oc.env:NOT_THERE}", "${oc.create:{a:1}}", "${train}"),
    *([], {}, [1], [[1]], [None], {"a": 1}, {"_target_": "os.system", "command": "true"}),
    *({"_target_": "torch.nn.ReLU"}, {"_target_": 3}, {"_target_": "torch.hub.load"}, {"_target_": None}),
    *({"_target_": "torch.nn.Linear", "in_features": "a"}, {"_target_": "lesa_d2.no.such"}, ["a", 2]),
    {"_target_": "detectron2.utils.registry.locate", "name": "os.system"},
    {"_target_": {"_target_": {"_target_": "torch.nn.Identity"}, "input": "os.system"}, "command": "true"},
    {"_target_": "detectron2.data.get_detection_dataset_dicts", "names": "a", "proposal_files": ["a.pkl"]},
    {"_target_": "lesa_d2.config.yaml_form.partial_of", "function": {"_target_": "subprocess.Popen"}},
]
TEXTS = [
    "{_target_: os.system, command: true}",
    "[[1,2]",
    '"a',
    "{a:",
    "(",
    "=",
    "a=b",
    "  ",
    "'",
    "[,]",
    "{a: {b: 1}}",
]


def some(share, /, **given_):
    """A test of this kind's share of the inputs."""

    def decorate(test):
        number = max(3, round(INPUTS * SHARES[share]))
        limits = settings(
            max_examples=number,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # inputs are short, and making them shorter takes long
        )
        decorated = limits(given(**given_)(test))
        decorated.row = (f"random mistakes: {share}", str(number), "documented errors alone; nothing ran", "")
        return decorated

    return decorate


RAN = []
IS_WATCHED = [False]
sys.addaudithook(lambda event, _: RAN.append(event) if IS_WATCHED[0] and event in RUNS else None)


@pytest.fixture(autouse=True)
def _watched(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    monkeypatch.setattr(report, "check_environment", list)


def ends(call, *arguments, **options):
    """The result of a call, or the text of a documented error; the test fails where anything runs."""
    RAN.clear()
    IS_WATCHED[0] = True
    try:
        return call(*arguments, **options)
    except LesaError as error:
        return f"error: {error}"
    finally:
        IS_WATCHED[0] = False
        assert RAN == []


# --------------------------------------------------------------------------------------------- configs

CONFIG = load_config("quickstart_lesa", [*TINY, "train.device=cpu"])
CONTENT = plain(CONFIG)
YACS = configs_folder() / "yacs/mask_rcnn_lesa_r50.yaml"


def keys_of(content, above=""):
    """Every key in dicts and lists."""
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for name, value in pairs:
        if name != "_target_":
            yield f"{above}{name}"
        yield from keys_of(value, f"{above}{name}.")


KEYS = list(keys_of(CONTENT))
OF_YACS = [
    "MODEL.LESA.OPERATOR",
    "MODEL.WEIGHTS",
    "SOLVER.STEPS",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "_BASE_",
    "MODEL",
]
TEXT = st.one_of(
    st.sampled_from([*TEXTS, *(str(value).replace("'", "") for value in VALUES)]), st.text(max_size=12)
)


def overrides(keys):
    key = st.one_of(st.sampled_from(keys), st.text(max_size=8))
    return st.lists(st.builds(lambda k, v: f"{k}={v}", key, TEXT), min_size=1, max_size=3)


@some("overrides", given_overrides=overrides(KEYS))
def test_overrides(given_overrides):
    def use():
        cfg = copy.deepcopy(CONFIG)
        apply_overrides(cfg, given_overrides)
        check_settings(cfg)

    ends(use)


@some("overrides of yacs", given_overrides=overrides(OF_YACS))
def test_overrides_of_yacs(given_overrides):
    ends(load_yacs_config, str(YACS), given_overrides)


def places(node, path=()):
    """All paths into dicts and lists."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(content, changes):
    """A copy with values replaced or removed; a place that an earlier change has removed is passed over."""
    content = copy.deepcopy(content)
    for (*above, last), value in changes:
        try:
            node = content
            for key in above:
                node = node[key]
            if value == "remove":
                del node[last]
            else:
                node[last] = copy.deepcopy(value)
        except (LookupError, TypeError):
            pass
    return content


def changes_of(content, largest=float("inf")):
    values = [value for value in VALUES if type(value) is not int or value <= largest]
    value = st.one_of(st.sampled_from([*values, "remove"]), st.just("remove"))
    return st.lists(st.tuples(st.sampled_from(list(places(content))), value), min_size=1, max_size=3)


CONTENTS = {"LazyConfig": CONTENT, "yacs": yaml.safe_load(YACS.read_text())}


def changes_of_any(**options):
    kinds = {kind: changes_of(content, **options) for kind, content in CONTENTS.items()}
    return st.sampled_from(list(kinds)).flatmap(lambda kind: st.tuples(st.just(kind), kinds[kind]))


BUILT = {"largest": 1000}  # a network of 10**30 blocks is built until the memory ends
SHORT = """\
model: {a: !!python/tuple [1, 2]}
dataloader: {}
optimizer: {lr: 0.1}
lr_multiplier: {}
train: {max_iter: 3}
"""
SNIPPETS = [
    *(text.replace("{mark}", "/nowhere/x") for text in CODE.values()),
    *("&a [*a]", "!!", "? ", "<<: ", "%", "\t", "- "),
]


def write(content, name="c.yaml"):
    with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(content if isinstance(content, str) else yaml.safe_dump(content))
    return name


def use_config(file):
    cfg = load_any_config(file)
    if "train" in cfg:
        check_settings(cfg)
    return cfg


@some("values of yaml", changes=changes_of_any())
def test_values_of_yaml_files(changes):
    kind, of_kind = changes
    ends(use_config, write(changed(CONTENTS[kind], of_kind)))


@some(
    "texts of yaml",
    snippets=st.lists(
        st.tuples(st.integers(0, len(SHORT)), st.sampled_from(SNIPPETS) | st.text(max_size=5)), max_size=3
    ),
)
def test_texts_of_yaml_files(snippets):
    text = SHORT
    for place, snippet in snippets:
        text = text[:place] + snippet + text[place:]
    ends(use_config, write(text))


# ----------------------------------------------------------------------------------------- checkpoints


class Evil:
    """Run a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("true",)


def files():
    """The bytes of small checkpoints of every format, and of some that would run code."""
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2, dtype=torch.float16)}
    made = []
    for content in (
        {"model": weights},
        weights,
        {"model": weights, "x": Evil()},
        [weights],
        {"model": {"a": [1]}},
    ):
        for is_zip in (True, False):
            torch.save(content, "made.pth", _use_new_zipfile_serialization=is_zip)
            made.append(Path("made.pth").read_bytes())
    arrays = {"conv1_w": np.ones((2, 3), np.float32), "blobs": {"b": np.zeros(3)}}
    made += [
        pickle.dumps(value, protocol) for value in (arrays, {**arrays, "x": Evil()}) for protocol in (0, 2, 4)
    ]
    write_safetensors(weights, Path("made.safetensors"))
    return [*made, Path("made.safetensors").read_bytes(), b"", b"\x80"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("files"))
        return files()


BYTES = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4), st.booleans()), max_size=3)


def broken(content, edits, end):
    """Bytes with some overwritten or put in between, cut off after the share ``end``."""
    content = bytearray(content)
    for place, new, is_inserted in edits:
        at = int(place * len(content))
        content[at : at if is_inserted else at + len(new)] = new
    return bytes(content[: round(end * len(content))])


@some("checkpoints", number=st.integers(0, 99), edits=BYTES, end=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.1]))
def test_checkpoints(originals, number, edits, end):
    Path("c.pth").write_bytes(broken(originals[number % len(originals)], edits, end))
    result = ends(lambda: read_checkpoint("c.pth")["model"])
    assert isinstance(result, str) or all(isinstance(value, torch.Tensor) for value in result.values())


@functools.cache
def weights():
    """The weights of a small detector and a small classifier."""
    classifier = load_config("quickstart_classifier", [*TINY_CLASSIFIER, "train.device=cpu"])
    models = {"detector": build_model(CONFIG), "classifier": build_model(classifier)}
    return {name: dict(model.state_dict()) for name, model in models.items()}


EDITS = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(
            ["remove", "rename", "reshape", "cut", "half", "whole", "empty", "scalar", "infinite"]
        ),
    ),
    max_size=4,
)


def edited(state, edits):
    """A state dict in which single tensors are other than they should be."""
    state = dict(state)
    for number, action in edits:
        name = list(state)[number % len(state)]
        value = state.pop(name)
        made = {
            "rename": {f"{name}x": value},
            "reshape": {name: value.reshape(1, -1)},
            "cut": {name: value[1:] if value.dim() else value},
            "half": {name: value.half()},
            "whole": {name: value.long()},
            "empty": {name: value.new_zeros(0)},
            "scalar": {name: value.new_zeros(())},
            "infinite": {name: value.float() * float("inf")},
        }
        state |= made.get(action, {})
    return state


@some(
    "converter",
    kind=st.sampled_from(list(CONVERSIONS)),
    of=st.sampled_from(["detector", "classifier", "official"]),
    edits=EDITS,
)
def test_converter(kind, of, edits):
    state = to_official(weights()["classifier"]) if of == "official" else weights()[of]
    torch.save({"model": edited(state, edits)}, "source.pth")
    ends(convert_file, kind, "source.pth", "target.pth", force=True)


# ------------------------------------------------------------------------------- doctor and predictor


@some(
    "doctor",
    changes=changes_of_any(**BUILT),
    opts=overrides(KEYS).filter(lambda given_: not any(str(2**31) in o or str(10**30) in o for o in given_)),
    edits=EDITS,
    what=st.sets(st.sampled_from(["opts", "checkpoint", "dataset", "bug"])),
)
def test_doctor(changes, opts, edits, what, capsys):
    kind, of_kind = changes
    given_ = ["--config-file", write(changed(CONTENTS[kind], of_kind[:1]))]
    if "checkpoint" in what:
        torch.save(edited(weights()["detector"], edits), "c.pth")
        given_ += ["--checkpoint", "c.pth"]
    if "dataset" in what:
        given_ += ["--dataset", "."]
    if "opts" in what:
        given_ += [opt for opt in opts if not opt.startswith("-")]
    assert ends(main, given_) in (0, 1)
    assert "unexpected" not in (printed := capsys.readouterr().out), printed


IMAGES = [
    np.zeros((16, 20, 3), np.uint8),
    *(np.zeros(shape, np.uint8) for shape in ((1, 1, 3), (0, 5, 3), (16, 20), (16, 20, 4), (2, 16, 20, 3))),
    *(np.zeros((16, 20, 3), kind) for kind in (np.float32, np.int64, bool, object)),
    *(None, "a.jpg", [], [None], 3, {"image": 1}),
]


@some(
    "predictor",
    changes=changes_of(CONTENT, **BUILT),
    edits=EDITS,
    image=st.sampled_from(range(len(IMAGES))),
    options=st.fixed_dictionaries(
        {},
        optional={
            "batch_size": st.sampled_from([0, 1, 2, "a"]),
            "amp": st.sampled_from(["bfloat16", "int8", 3]),
            "device": st.sampled_from(["cpu", "cuda:7", "x", ""]),
        },
    ),
)
def test_predictor(changes, edits, image, options):
    torch.save(edited(weights()["detector"], edits), "c.pth")

    def use():
        cfg = load_config(write(changed(CONTENT, changes[:1])))
        return Predictor(cfg, weights="c.pth", **options)(IMAGES[image])

    ends(use)
