"""What people type after ``key=``: texts as they are, numbers, lists, or a message that says how to quote."""

import shlex

import pytest
from detectron2.config import LazyCall as L
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lesa_d2.config import load_any_config, load_config
from lesa_d2.config.lazy import apply_overrides
from lesa_d2.config.overrides import quoted, read_value
from lesa_d2.data.folder import folder_split
from lesa_d2.errors import ConfigError

YACS = "yacs/mask_rcnn_lesa_r50"
TEXTS = [
    "output/my run (2)",
    "/data/a=b",
    "it's",
    'say "hi"',
    "a, b",
    "a#b;c&d",
    "100%",
    r"C:\Users\me\run (2)",
    r"\\server\share",
    "2024",
    "2024_run/1e3",
    "1e3",
    "True",
    "crème brûlée",
    "日本",
    "[draft] run",
    "[a, b]",
    "{a}",
    "(a)",
    "(a",
    "[a",
    "~/x!",
    "a: b",
    " two ",
    "str(5)",
    "a\nb",
    "-x",
    "",
]


@pytest.fixture(scope="module")
def quickstart():
    return load_config("quickstart_lesa")


@pytest.mark.parametrize("text", TEXTS)
def test_a_key_for_texts_takes_them_as_they_are(quickstart, text):
    apply_overrides(quickstart, [f"train.output_dir={text}", f"train.init_checkpoint={text}"])
    assert (quickstart.train.output_dir, quickstart.train.init_checkpoint) == (text, text)


def test_so_does_an_argument_that_is_a_text():
    cfg = OmegaConf.create({"names": L(folder_split)(directory="x", split="train", seed=0)})
    for text in TEXTS:
        apply_overrides(cfg, [f"names.directory={text}"])
        assert cfg.names.directory == text
    apply_overrides(cfg, ["names.seed=2024"])
    assert cfg.names.seed == 2024


@pytest.mark.parametrize("text", TEXTS)
def test_so_does_yacs(text):
    assert text == load_any_config(YACS, [f"OUTPUT_DIR={text}"]).OUTPUT_DIR


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_can_be_quoted(text):
    assert read_value("x", quoted(text)) == text
    assert read_value("x", f"[{quoted(text)}, {quoted(text)}]") == [text, text]
    assert read_value("x", f"{{a: {quoted(text)}}}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[pain au chocolat, crème brûlée]", ["pain au chocolat", "crème brûlée"]),
        ("[a (b, c), d=e]", ["a (b, c)", "d=e"]),
        (r"[it's, 100%, #x, C:\a, \\srv]", ["it's", "100%", "#x", r"C:\a", r"\\srv"]),
        ("['pain, au', \"b]\"]", ["pain, au", "b]"]),
        ("[1, 2e3, None, true]", ["1", "2e3", "None", "true"]),
        ("[the cat's, the dog's]", ["the cat's", "the dog's"]),
        ("[]", []),
        ("[a,]", ["a"]),
    ],
)
def test_lists_of_names(quickstart, text, names):
    apply_overrides(quickstart, [f"train.class_names={text}"])
    assert quickstart.train.class_names == names


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-1_000", -1000),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("None", None),
        ("[1, [2.5, x]]", [1, [2.5, "x"]]),
        ("(512, 768)", [512, 768]),
        ("()", []),
        ("{a: 1, b: {c: [x, 2]}}", {"a": 1, "b": {"c": ["x", 2]}}),
        ("{}", {}),
        ("'5'", "5"),
        ('"null"', "null"),
        ("int(5)", 5),
        ("007", "007"),
        ("(a", "(a"),
        ("(a) b", "(a) b"),
        ("${train.seed}", "${train.seed}"),
    ],
)
def test_values_of_other_kinds(text, value):
    found = read_value("x", text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "reason", "forms"),
    [
        ("512, 768", "several values stand in brackets", ['"512, 768"', "[512, 768]"]),
        ("[a, b (c", r"a bracket is not closed: '\)' is missing", ['"[a, b (c"', '["a", "b (c"]']),
        ("'90s", "what begins with ' does not end with the same quote", ['"\'90s"']),
        ("[a,, b]", "nothing stands before one ','", ['["a", "b"]']),
        ("{a}", "a in braces is not of the form name: value", ['"{a}"']),
    ],
)
def test_the_message_says_how_to_quote(text, reason, forms):
    with pytest.raises(ConfigError, match=reason) as error:
        read_value("model.x", text)
    for form in forms:
        typed = shlex.quote(f"model.x={form}")
        assert typed in str(error.value)
        read_value("model.x", form)


def test_a_list_replaces_a_mapping_and_a_mapping_is_merged():
    cfg = OmegaConf.create({"a": {"b": 1, "c": 2}})
    apply_overrides(cfg, ["a={b: 5}"])
    assert cfg.a == {"b": 5, "c": 2}
    apply_overrides(cfg, ["a=[x (1), y]"])
    assert cfg.a == ["x (1)", "y"]


def test_lists_of_yacs():
    cfg = load_any_config(YACS, ["DATASETS.TRAIN=(my data (1), 'b, c')", "DATASETS.TEST=()"])
    assert cfg.DATASETS.TRAIN == ("my data (1)", "b, c")
    assert cfg.DATASETS.TEST == ()
