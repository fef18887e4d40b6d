"""Private names of other libraries: the one module that uses them, each with the reason for it.

``tests/test_compat.py`` fails where a new version changes what we rely on.
"""

import torch
import torchvision  # noqa: F401, registers its operators

# PyTorch documents TorchDispatchMode under "Extending PyTorch", and its tree functions nowhere; both stand in
# private modules and have no public names.  Tested with torch 2.14.1.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# What the public functions deform_conv2d and scaled_dot_product_attention run has no public name.  Tested with
# torch 2.14.1 and torchvision 0.29.1.
DEFORM_CONV_BACKWARD = torch.ops.torchvision._deform_conv2d_backward
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

__all__ = ["CPU_ATTENTION", "DEFORM_CONV_BACKWARD", "TorchDispatchMode", "tree_leaves", "tree_map_only"]
