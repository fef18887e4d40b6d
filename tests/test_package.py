"""What importing the package costs."""

import subprocess
import sys
from pathlib import Path

import lesa_d2

ROOT = Path(__file__).parents[1]


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
    """But for three modules that know nothing themselves."""
    code = (
        "import sys, lesa_d2.layers\n"
        "ours = (m for m in sys.modules if m.startswith('lesa_d2.') and 'layers' not in m)\n"
        "print(sorted(set(ours) - {'lesa_d2.compat', 'lesa_d2.errors', 'lesa_d2.trust'}))"
    )
    assert python(code) == "[]"


def test_one_version():
    assert f"version: {lesa_d2.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"
    assert headings[1].startswith(f"## {lesa_d2.__version__}, ")
