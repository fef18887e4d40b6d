"""All commands and all Python of the README and of docs/ run, word for word, on small configs."""

import re

import pytest
from sandbox import ROOT, Sandbox, filled_in

PAGES = ["README.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
ELSEWHERE = {
    "docs/model_zoo.md": "tests/docs/test_model_zoo.py",  # it builds a wheel
}
NOT_HERE = {
    r"make (setup|test|lint|doctor)": "run by CI itself, which starts with nothing",
    r"make quickstart( OPERATOR=\w+)?( SEEDS=\d)?": "what it starts is run here as a command of its own",
    r"make bench": "tests/tools/benchmark runs its tables small; three quarters of an hour in full",
    r".*pip install .*": "what `make setup` does",
    r"python -m lesa_d2.install_detectron2": "what `make setup` does",
    r".*compare_operators.py": "tests/tools/analysis",
    r".*tensorboard .*": "a server; its files are in tests/engine",
    r".*train.trackers=.*": "there is no server; tests/engine/test_trackers.py",
    r"torchrun .*": "tests/engine/test_processes.py, tests/engine/test_elastic.py, tests/commands/test_predict.py",
    r".*--webcam": "there is no camera; tests/tools/demo/test_video.py",
    r".*(own_operator.py|new_baselines|retinanet_lesa_r50).*": "tests/docs/test_own_operator.py, tests/engine",
    r".*benchmark cost .*(--memory|htc_).*": "minutes for large models; tests/tools/benchmark/test_cost.py",
    r".*own_photos_lesa.*": "tests/engine/test_own_data.py; its weights would be downloaded",
    r".*--from convolution .*": "tests/commands/test_convert.py",
    r".*--from official-detector .*": "tests/checkpoint/test_conversion.py",
}
FIRST = """
python projects/LESA/quickstart.py --operator lesa --seeds 2
python train_net.py --config-file configs/quickstart_conv.py train.output_dir=output/quickstart/conv
python train_net.py --config-file configs/quickstart_lesa.py --dataset own_data train.output_dir=output/mine
"""
FENCED = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s+#.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """With what a reader has before: the quick start's runs, and one on data of their own."""
    made = Sandbox(tmp_path_factory.mktemp("repository"))
    status, printed = made.run(FIRST)
    assert status == 0, printed[-3000:]
    yield made
    made.close()


def runnable(block):
    """A block without the commands that are run elsewhere; continued lines joined."""
    block = re.sub(r"\\\n\s*", " ", COMMENT.sub("", block))
    return "\n".join(line for line in block.splitlines() if not any(re.fullmatch(p, line) for p in NOT_HERE))


def found_blocks():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for number, (language, block) in enumerate(FENCED.findall(text)):
            if page not in ELSEWHERE:
                yield pytest.param(language, block, id=f"{page}-{number}")


def test_the_table_of_two_seeds(sandbox):
    table = (sandbox.folder / "output/quickstart/table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| lesa"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[3] == "2"
    assert all("±" in cell for cell in cells[4:])


def test_no_command_stands_outside_of_what_is_run():
    """Other fences, such as ```sh, would be passed over."""
    for page in PAGES:
        fences = re.findall(r"^```(\w*)\n", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(fences) <= {"bash", "python", ""}, page


@pytest.mark.parametrize(("language", "block"), list(found_blocks()))
def test_runs(language, block, sandbox):
    if language == "python":
        status, printed = sandbox.run(block, python=True)
    else:
        status, printed = sandbox.run(filled_in(runnable(block), sandbox.folder))
    assert status == 0, printed[-3000:]
