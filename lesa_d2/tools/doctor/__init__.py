"""``python -m lesa_d2.doctor``: what is wrong, and the exact command or step that fixes it."""

from .environment import check_environment
from .findings import Finding
from .inputs import Inputs
from .report import main

__all__ = ["Finding", "Inputs", "check_environment", "main"]
