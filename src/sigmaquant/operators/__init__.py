"""Operators: what each one means, in which grids its values lie, and the integer arithmetic that computes it.

There is one module for each family. It declares which spellings belong to it and with which arguments (`declares`), the
integer operator as plain data with its reference, and how the one becomes the other. What no family declares, or
declares only with other arguments, stays in float and is listed by name.
"""

from sigmaquant.operators.affine import Affine, Sum
from sigmaquant.operators.concatenation import Concatenation
from sigmaquant.operators.edge import Edge, decode, encode
from sigmaquant.operators.embedding import Embedding, Recode
from sigmaquant.operators.extremum import Extremum
from sigmaquant.operators.floats import FloatFunction
from sigmaquant.operators.layers import Convolution, Linear, Weighted
from sigmaquant.operators.lookup import Lookup
from sigmaquant.operators.matmul import MatMul
from sigmaquant.operators.movement import Move, Pad, Permute, Reshape, Slice, Take
from sigmaquant.operators.node import Operator, compute
from sigmaquant.operators.norm import Norm
from sigmaquant.operators.pool import Average, MaxPool
from sigmaquant.operators.prelu import Slopes
from sigmaquant.operators.product import Product
from sigmaquant.operators.recurrent import Matrix, Recurrent
from sigmaquant.operators.resize import Resize
from sigmaquant.operators.selection import Select
from sigmaquant.operators.softmax import Softmax
from sigmaquant.operators.unit_length import UnitLength

__all__ = [
    "Affine",
    "Average",
    "Concatenation",
    "Convolution",
    "Edge",
    "Embedding",
    "Extremum",
    "FloatFunction",
    "Linear",
    "Lookup",
    "MatMul",
    "Matrix",
    "MaxPool",
    "Move",
    "Norm",
    "Operator",
    "Pad",
    "Permute",
    "Product",
    "Recode",
    "Recurrent",
    "Reshape",
    "Resize",
    "Select",
    "Slice",
    "Slopes",
    "Softmax",
    "Sum",
    "Take",
    "UnitLength",
    "Weighted",
    "compute",
    "decode",
    "encode",
]
