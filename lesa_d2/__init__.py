"""LESA (Locally Enhanced Self-Attention, arXiv 2107.05637) as a detectron2 extension.

Importing this package is cheap: ``lesa_d2.layers`` needs torch and torchvision only, everything else
detectron2; import the part you use.
"""

import os

# Threads that wait at a barrier soon sleep instead of spinning: on a CPU shared with other work that makes
# training several times faster.  OpenMP reads it when torch is loaded, so it has no effect after that.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
