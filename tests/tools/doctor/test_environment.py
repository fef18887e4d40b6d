"""What the doctor says of the environment."""

import subprocess
import sys

import pytest

from lesa_d2.tools.doctor import environment, main, report


def test_content_here(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in ("torch ", "torchvision ", "detectron2 ", "lesa_d2 "):
        assert f"ok  {name}" in out
    assert "--bug-report" in out


def test_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "lesa_d2.doctor", "x=1"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "'x=1' overrides a config" in result.stdout


@pytest.mark.parametrize(
    ("requirement", "module", "command"),
    [
        ("yacs>=0.1.8", "yacs", 'pip install "yacs>=0.1.8"'),
        ("setuptools<82", "pkg_resources", 'pip install "setuptools<82"'),
        ("torchvision<1,>=0.21", "torchvision", "pip install torch torchvision"),
        ("opencv-python>=4.8", "cv2", 'pip install "opencv-python>=4.8"'),
    ],
)
def test_names_the_command_that_fixes_it(requirement, module, command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    finding = environment.check_package(requirement)
    assert "does not import" in finding.state
    assert command in finding.fix
    monkeypatch.setattr(report, "check_environment", lambda: [finding])
    assert main([]) == 1
    assert command in capsys.readouterr().out


def test_checks_all_that_setup_declares():
    names = {finding.name for finding in environment.check_requirements()}
    assert {"torch", "torchvision", "fvcore", "termcolor", "tqdm", "opencv-python"} <= names
    assert "pytest" not in names


def test_without_packaging(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    (finding,) = environment.check_requirements()
    assert finding.fix.endswith("-m pip install packaging")


def test_sees_versions_out_of_range():
    finding = environment.check_package("yacs>=99")
    assert "is outside >=99" in finding.state
    assert 'pip install "yacs>=99"' in finding.fix


def test_without_detectron2(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    assert environment.check_detectron2().fix.endswith("-m lesa_d2.install_detectron2")


def python(code):
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_names_a_missing_dependency_of_detectron2():
    code = (
        "import sys; sys.modules['termcolor'] = None\n"
        "from lesa_d2.tools.doctor import environment; print(environment.check_detectron2().fix)"
    )
    assert python(code).endswith("-m pip install termcolor")


def test_works_without_torch():
    """Every check says that it cannot check, in one line, and the exit status tells."""
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'detectron2', 'omegaconf'): sys.modules[name] = None\n"
        "from lesa_d2.tools.doctor import main\n"
        "inputs = ['--config-file', 'quickstart_lesa', '--dataset', '.', '--checkpoint', 'x']\n"
        "print(main([*inputs, '--bug-report']))"
    )
    out = python(code)
    assert out.endswith("\n1")
    assert "pip install torch torchvision" in out
    for name in ("config", "data set", "checkpoint"):
        assert any(line.startswith(f"!!  {name} ") and "not checked" in line for line in out.splitlines())
    assert "detectron2's report fails" in out


def test_the_folder_of_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LESA_MODELS", str(tmp_path))
    (tmp_path / "mine.pth").touch()
    finding = environment.check_weights()
    assert finding.state == f"{tmp_path}: mine.pth"
    assert not finding.fix


def test_problems_come_first_and_quiet_leaves_the_rest_out(monkeypatch, capsys):
    findings = [
        report.Finding("fine", "1"),
        report.Finding("bad", "broken", "mend it"),
        report.Finding("good", "2"),
    ]
    monkeypatch.setattr(report, "check_environment", lambda: findings)
    assert main([]) == 1
    assert capsys.readouterr().out.startswith("!!  bad   broken\nok  fine  1\nok  good  2\n\nTo fix:")
    assert main(["--quiet"]) == 1
    assert capsys.readouterr().out == "!!  bad  broken\n\nTo fix:\n  bad\n    mend it\n"
    findings.pop(1)
    assert main(["--quiet"]) == 0
    assert capsys.readouterr().out == ""
