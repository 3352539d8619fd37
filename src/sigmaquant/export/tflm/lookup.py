"""Tables of functions, as TensorFlow Lite Micro can read them."""

from __future__ import annotations

import numpy as np

from sigmaquant.export.litert.emission import emit
from sigmaquant.export.litert.values import LOWEST, Values
from sigmaquant.export.tflm.form import MicroLookup


@emit.register
def _(operator: MicroLookup, values: Values) -> None:
    """A gather at the codes plus 128, in 32 bits."""
    graph, (name,) = values.graph, operator.inputs
    layout, kinds = values.layout(name), graph.schema.TensorType
    source = values.read(name, layout)
    codes = np.arange(256) + LOWEST - values.shift(name)  # of the places 0..255
    entries = operator.table[(codes - LOWEST).clip(0, 255)].astype(np.int64) + values.shift(operator.output)
    shape, data = graph.shape(source), entries.astype(np.int8).tobytes()
    table = graph.tensor(f"{operator.name}.table", (256,), "INT8", values.grid(operator.output), data)
    wide, places = (graph.tensor(f"{name}.{what}", shape, "INT32") for what in ("wide", "place"))
    graph.operator("CAST", (source,), wide, 3, "CastOptions", inDataType=kinds.INT8, outDataType=kinds.INT32)
    graph.operator("ADD", (wide, graph.integers("lowest", (-LOWEST,))), places, 1, "AddOptions")
    graph.operator("GATHER", (table, places), values.new(operator.output, layout), 2, "GatherOptions")
