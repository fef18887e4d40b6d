"""What importing the package costs, and what the doctor says."""

import subprocess
import sys

import pytest

from lesa_d2 import doctor


def python(code):
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_pulls_in_nothing_heavy():
    code = "import sys, lesa_d2; print([m for m in ('torch', 'detectron2', 'numpy') if m in sys.modules])"
    assert python(code) == "[]"


def test_layers_import_and_run_without_detectron2():
    code = (
        "import sys\n"
        "for name in ('detectron2', 'fvcore', 'iopath', 'omegaconf', 'cv2', 'pycocotools'):\n"
        "    sys.modules[name] = None\n"  # importing them fails
        "import torch\n"
        "from lesa_d2.layers import LESA\n"
        "print(tuple(LESA(16, 16, num_heads=2, feat_size=4)(torch.randn(1, 16, 4, 5)).shape))"
    )
    assert python(code) == "(1, 16, 4, 5)"


def test_layers_know_nothing_of_the_rest():
    code = (
        "import sys, lesa_d2.layers\n"
        "print(sorted(m for m in sys.modules if m.startswith('lesa_d2.') and 'layers' not in m))"
    )
    assert python(code) == "[]"


def test_doctor_is_content_here(capsys):
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for name in ("torch ", "torchvision ", "detectron2 ", "lesa_d2 "):
        assert f"ok  {name}" in out


@pytest.mark.parametrize(
    ("requirement", "module", "command"),
    [
        ("yacs>=0.1.8", "yacs", 'pip install "yacs>=0.1.8"'),
        ("setuptools<82", "pkg_resources", 'pip install "setuptools<82"'),
        ("torchvision<1,>=0.21", "torchvision", "pip install torch torchvision"),
        ("opencv-python>=4.8", "cv2", 'pip install "opencv-python>=4.8"'),
    ],
)
def test_doctor_names_the_command_that_mends(requirement, module, command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    finding = doctor.check_package(requirement)
    assert "does not import" in finding.state
    assert command in finding.mend
    monkeypatch.setattr(doctor, "diagnose", lambda: [finding])
    assert doctor.main() == 1
    assert command in capsys.readouterr().out


def test_doctor_checks_all_that_setup_declares():
    names = {finding.name for finding in doctor.check_requirements()}
    assert {"torch", "torchvision", "fvcore", "termcolor", "tqdm", "opencv-python"} <= names
    assert "pytest" not in names


def test_doctor_sees_versions_out_of_range():
    finding = doctor.check_package("yacs>=99")
    assert "is outside >=99" in finding.state
    assert 'pip install "yacs>=99"' in finding.mend


def test_doctor_without_detectron2(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    finding = doctor.check_detectron2()
    assert "install_detectron2.py" in finding.mend


def test_doctor_names_a_missing_dependency_of_detectron2():
    code = (
        "import sys; sys.modules['termcolor'] = None\n"
        "from lesa_d2 import doctor; print(doctor.check_detectron2().mend)"
    )
    assert python(code).endswith("-m pip install termcolor")
