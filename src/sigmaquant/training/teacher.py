"""The float network as a teacher: evaluation mode, BatchNorm folded, no gradients."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from sigmaquant.graph.copying import copied
from sigmaquant.graph.specs import QuantGraph


def make_teacher(graph: QuantGraph) -> fx.GraphModule:
    """A frozen copy of the float network. Folding BatchNorm saves a pass over every activation of each batch."""
    teacher = copied(graph.module).eval()
    for spec in graph.layers:
        if spec.batch_norm is None or spec.tied or spec.calls != 1:
            continue
        layer, norm = teacher.get_submodule(spec.name), teacher.get_submodule(spec.batch_norm)
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            folded: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif type(layer) is nn.Linear and isinstance(norm, nn.BatchNorm1d):
            folded = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        teacher.set_submodule(spec.name, folded)
        teacher.set_submodule(spec.batch_norm, nn.Identity())
    return teacher.eval().requires_grad_(False)
