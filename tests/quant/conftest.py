"""The network that most tests here begin from."""

from __future__ import annotations

import copy

import pytest
from quant_cases import Residual, images, quantized

from sigmaquant.quant import QuantizedNetwork


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    return quantized(Residual(), images())


@pytest.fixture
def fresh(network: QuantizedNetwork) -> QuantizedNetwork:
    return copy.deepcopy(network)
