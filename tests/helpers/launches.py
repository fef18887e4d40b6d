"""Count the operators that a program runs, of which each is at least one launch on a GPU, views aside."""

from collections import Counter

from lesa_d2.compat import TorchDispatchMode

VIEWS = {
    "view", "_unsafe_view", "slice", "select", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "detach",
    "alias", "split", "split_with_sizes", "as_strided", "unbind", "unfold", "diagonal", "_reshape_alias",
}  # fmt: skip


class CountCalls(TorchDispatchMode):
    """Count, while open, the calls by the operator's name.

    Attributes:
        calls: name -> number, views included.
    """

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    @property
    def launches(self):
        """The number of calls that are no views."""
        return sum(number for name, number in self.calls.items() if name not in VIEWS)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))
