"""The private names of other libraries that we use still do what we rely on."""

import torch
import torch.nn.functional as F
import torchvision

from lesa_d2.compat import CPU_ATTENTION, DEFORM_CONV_BACKWARD, TorchDispatchMode, tree_leaves, tree_map_only


def test_a_dispatch_mode_sees_every_operator_of_both_passes():
    seen = []

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    x, weight = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3)
    with Seeing():
        F.scaled_dot_product_attention(q, q, q).sum().backward()
        torchvision.ops.deform_conv2d(x, torch.zeros(1, 18, 3, 3), weight).sum().backward()
    assert {CPU_ATTENTION, DEFORM_CONV_BACKWARD, torch.ops.torchvision.deform_conv2d} <= set(seen)


def test_storages_can_be_followed_by_weak_references():
    """A storage is one Python object for all its tensors, and lives as long as any of them."""
    import weakref

    tensor = torch.zeros(4)
    freed = []
    weakref.finalize(tensor.untyped_storage(), freed.append, True)
    view = tensor[1:]
    assert view.untyped_storage() is tensor.untyped_storage()
    del tensor
    assert not freed
    del view
    assert freed


def test_trees():
    tree = {"a": [torch.ones(1), 2], "b": (torch.ones(2), None)}
    assert len(tree_leaves(tree)) == 4
    assert tree_map_only(torch.Tensor, len, tree) == {"a": [1, 2], "b": (2, None)}
