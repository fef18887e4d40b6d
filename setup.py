"""Let older tools install the package; all of its settings are in pyproject.toml."""

from setuptools import setup

setup()
