"""The import hook, in fresh interpreters with made-up packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from lesa_d2.install_detectron2 import install_hook

PACKAGE = Path(__file__).resolve().parents[2] / "lesa_d2"


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


CARRIED = {
    "LabGym/__init__.py": "",
    "LabGym/detectron2/__init__.py": "from LabGym.detectron2.config import Config\nNAME = 'carried'\n",
    "LabGym/detectron2/config/__init__.py": "from .node import Config\n",
    "LabGym/detectron2/config/node.py": "class Config:\n    pass\n",
    "LabGym/detectron2/late.py": "from LabGym.detectron2.config import Config as Same\n",
}


def python(code, *paths):
    """Run code in an isolated interpreter with the hook armed and these folders on its path."""
    start = f"import sys; sys.path[:0] = {[*map(str, paths)]!r}; sys.path.append({str(PACKAGE)!r})\n"
    start += "import detectron2_from_labgym as hook; hook.arm(); hook.arm()\n"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", start + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def carried(tmp_path):
    write(tmp_path / "carried", CARRIED)
    return tmp_path / "carried"


def test_modules_and_classes_carry_detectron2s_names(carried):
    code = "import detectron2.config; print(detectron2.config.Config.__module__, detectron2.NAME)"
    assert python(code, carried) == "detectron2.config.node carried"


def test_both_names_are_the_same_modules(carried):
    code = (
        "import detectron2, LabGym.detectron2, LabGym.detectron2.late as late, detectron2.late as same\n"
        "import LabGym.detectron2.config.node as node\n"
        "print(LabGym.detectron2 is detectron2, late is same, late.Same is detectron2.Config,"
        " node.Config is detectron2.Config)"
    )
    assert python(code, carried) == "True True True True"


def test_the_order_of_imports_does_not_matter(carried):
    code = "import LabGym.detectron2.late as late\nimport detectron2\nprint(late.Same is detectron2.Config)"
    assert python(code, carried) == "True"


def test_cached_bytecode_of_the_unrenamed_source_is_not_used(carried):
    compileall = [sys.executable, "-m", "compileall", "-q", str(carried)]
    subprocess.run(compileall, check=True)
    code = "import detectron2.config; print(detectron2.config.Config.__module__)"
    assert python(code, carried) == "detectron2.config.node"


def test_a_real_detectron2_is_left_alone(carried, tmp_path):
    write(tmp_path / "real", {"detectron2/__init__.py": "NAME = 'real'\n", "detectron2/part.py": "X = 1\n"})
    code = "import detectron2, detectron2.part; print(detectron2.NAME, 'LabGym' in sys.modules)"
    for order in ((carried, tmp_path / "real"), (tmp_path / "real", carried)):
        assert python(code, *order) == "real False"


def test_a_folder_of_that_name_is_no_real_detectron2(carried, tmp_path):
    (tmp_path / "elsewhere/detectron2").mkdir(parents=True)
    assert python("import detectron2; print(detectron2.NAME)", tmp_path / "elsewhere", carried) == "carried"


def test_without_either_the_error_is_the_usual_one(tmp_path):
    code = "try:\n    import detectron2\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert python(code, tmp_path) == "No module named 'detectron2'"


def test_a_missing_submodule_is_the_usual_error(carried):
    code = "try:\n    import detectron2.nothing\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert python(code, carried) == "No module named 'detectron2.nothing'"


def test_files_are_named_where_they_lie(carried):
    code = "import detectron2.config.node as node; print(node.__file__)"
    assert python(code, carried) == str(carried / "LabGym/detectron2/config/node.py")


def test_installed_hook_is_armed_by_its_pth_line(carried, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install_hook(site)
    code = (
        f"import sys, site; sys.path.append({str(carried)!r}); site.addsitedir({str(site)!r})\n"
        "import detectron2; print(detectron2.NAME)"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "carried", result.stderr
