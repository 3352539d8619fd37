"""Between integers and floats: what stands behind the last integers, and the way to it."""

from __future__ import annotations

from sigmaquant.export.onnx.translation import Translation, translate
from sigmaquant.lowering.model import Dequantize, Quantize
from sigmaquant.operators import FloatFunction


@translate.register
def _(operator: Dequantize, to: Translation) -> None:
    to.real(to.edge(operator), output=to.codes[operator.output])


@translate.register
def _(operator: Quantize, to: Translation) -> None:
    edge = to.model.edges[operator.output]
    to.quantize(to.codes[operator.inputs[0]], edge, *edge.range, to.codes[operator.output])


@translate.register
def _(operator: FloatFunction, to: Translation) -> None:
    value, output = to.codes[operator.inputs[0]], to.codes[operator.output]
    if operator.function == "sigmoid":
        to.builder.node("Sigmoid", [value], output, name=operator.name)
        return
    kind = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}[operator.function]
    to.builder.node(kind, [value], output, name=operator.name, axis=operator.axis + 1)
