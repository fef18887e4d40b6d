"""Whether a trace is made, of torch.export or torch.jit.trace; the layers must then not decide by sizes."""

import torch


def sizes_are_open() -> bool:
    """Return whether a size may stand for any other, so that no branch may depend on it."""
    is_exporting = getattr(torch.compiler, "is_exporting", None)  # torch 2.6 cannot tell
    return torch.jit.is_tracing() or (is_exporting is not None and is_exporting())
