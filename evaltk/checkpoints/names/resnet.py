"""Names of ResNets: torchvision's, which most have, and lightly's, whose modules are numbered."""

from __future__ import annotations

from evaltk.checkpoints.names.renamed import Renamed, Rules, Tensors, drop, substitute

DROPPED: Rules = (
    (r"(head|fc|head\.fc)\.(weight|bias)", "class head"),
    (r"(head|fc|projection_head|projector)\.\d+\.\w+", "projection head"),
    (r"(head|fc)\.(mlp|last_layer)\b.*", "projection head"),
    (r"prototypes\..*", "prototypes"),
    (r"queue|queue_ptr", "queue of the training"),
)
# nn.Sequential(*list(resnet.children())[:-1]): 2 is the ReLU, 3 the pooling, 8 the last pooling.
NUMBERED: Rules = ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *((rf"^{i + 3}\.", f"layer{i}.") for i in (1, 2, 3, 4)))


def rename(tensors: Tensors) -> Renamed:
    """torchvision's names."""
    kept, dropped = drop(tensors, DROPPED)
    return Renamed(kept, dropped)


def numbered(tensors: Tensors) -> Renamed:
    """torchvision's names for numbered modules."""
    return Renamed(substitute(tensors, NUMBERED))
