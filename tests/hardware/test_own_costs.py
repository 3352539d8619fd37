"""Costs of a device as a function of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from sigmaquant import Budget, load_profile
from sigmaquant.errors import BudgetError, HardwareProfileError
from sigmaquant.hardware import own_costs
from sigmaquant.hardware.own_costs import LayerEstimate, register_costs


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    own_costs._REGISTERED.clear()


def test_a_run_goes_by_them_and_resumes(tmp_path: Path) -> None:
    @register_costs("bits", "A picojoule for every bit.")
    def bits(layer, weight_bits, activation_bits):
        return LayerEstimate(energy_pj=layer.elements * weight_bits, cycles=layer.macs)

    assert load_profile("bits").description == "A picojoule for every bit."
    result = tiny.run(Budget(energy="9 nJ"), hardware="bits", post_training=True, run_dir=tmp_path)
    elements = {layer.name: layer.elements for layer in result.network.graph.layers}
    spent = sum(elements[name] * width for name, width in result.plan.weights.items())
    assert result.cost.energy_pj == spent <= 9000
    assert result.cost.cycles == sum(layer.macs for layer in result.network.graph.layers)
    again = tiny.run(Budget(energy="9 nJ"), hardware="bits", post_training=True, run_dir=tmp_path, resume=True)
    assert again.plan == result.plan
    with pytest.raises(BudgetError, match="latency"):
        tiny.run(Budget(latency="1 ms"), hardware="bits", post_training=True)


@pytest.mark.parametrize(
    "given", [LayerEstimate(), LayerEstimate(energy_pj=float("nan")), 3.0, LayerEstimate(cycles=-1)]
)
def test_what_is_no_cost_is_told_with_layer_and_bits(given: object) -> None:
    register_costs("broken")(lambda layer, weight_bits, activation_bits: given)  # type: ignore[arg-type,return-value]
    with pytest.raises(HardwareProfileError, match=r"the costs 'broken' of layer '.*' at \d bits are .*LayerEstimate"):
        tiny.run(Budget(size="8x"), hardware="broken", post_training=True)


@pytest.mark.parametrize("name", ["cortex-m4", "ideal", "mine.json", "a/b"])
def test_names_of_profiles_are_taken(name: str) -> None:
    with pytest.raises(HardwareProfileError, match="Choose another name"):
        register_costs(name)


def test_an_unknown_name_lists_them() -> None:
    register_costs("my-npu")(lambda layer, weight_bits, activation_bits: LayerEstimate(cycles=1))
    with pytest.raises(HardwareProfileError, match="my-npu"):
        load_profile("my-npv")
