"""LESA (Locally Enhanced Self-Attention, arXiv 2107.05637) as a detectron2 extension.

Importing this package is cheap and changes nothing: ``lesa_d2.layers`` needs torch and torchvision only, everything
else detectron2; import the part you use.
"""

__version__ = "0.2.0"
