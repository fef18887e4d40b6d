"""Packaging of lesa_d2; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# detectron2 itself is not on PyPI: tools/install_detectron2.py provides it where none is installed.
# What detectron2 needs is listed here, because the copy it then comes from is installed without dependencies.
DETECTRON2_NEEDS = [
    "cloudpickle",
    "hydra-core>=1.1",
    "matplotlib",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "Pillow>=10",
    "setuptools<82",  # later ones lack pkg_resources, which detectron2.model_zoo imports
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29",
    "yacs>=0.1.8",
]

# They keep their place at the top of the repository; the model zoo of an installed wheel needs them as well.
CONFIGS = {
    "lesa_d2.configs": "configs",
    "lesa_d2.configs.common": "configs/common",
    "lesa_d2.configs.yacs": "configs/yacs",
}
EXPORT = ["onnx", "onnxruntime", "onnxscript"]

setup(
    name="lesa_d2",
    version="0.1.0",
    description="LESA (Locally Enhanced Self-Attention) as a detectron2 extension",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["lesa_d2", "lesa_d2.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={
        "lesa_d2": ["py.typed", "tools/demo/report.html"],
        "lesa_d2.configs.yacs": ["*.yaml"],
    },
    install_requires=[
        "torch>=2.6,<3",
        "torchvision>=0.21,<1",
        "numpy>=1.26,<3",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "pycocotools>=2.0.7",
        "opencv-python>=4.8",
        *DETECTRON2_NEEDS,
    ],
    extras_require={
        "export": EXPORT,
        "dev": [
            "hypothesis",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "types-tabulate",
            "types-PyYAML",
            *EXPORT,
        ],
    },
)
