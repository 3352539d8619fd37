import pytest
from statistics_cases import branches

import tiny
from sigmaquant.errors import DataError, PlanError
from sigmaquant.statistics import (
    SENSITIVITIES,
    divergences,
    fisher_sensitivities,
    output_sensitivity,
    register_sensitivity,
    registry,
    sensitivity,
)

BITWIDTHS = (2, 4, 8)


def test_every_name_gives_the_table_of_its_function():
    graph, x = branches()
    both = fisher_sensitivities(graph, BITWIDTHS, [x], seed=5)
    expected = {
        "divergence": divergences(graph, BITWIDTHS),
        "output_kl": output_sensitivity(graph, BITWIDTHS, [x]),
        "fisher": both.fisher,
        "curvature": both.curvature,
    }
    assert set(expected) == set(SENSITIVITIES)
    for name, table in expected.items():
        assert sensitivity(name, graph, BITWIDTHS, [x], seed=5) == table
        assert {layer: tuple(row) for layer, row in table.items()} == {s.name: BITWIDTHS for s in graph.layers}
        assert all(row[2] > row[8] >= 0 for row in table.values())


def test_errors():
    graph, _ = branches()
    with pytest.raises(DataError, match="Did you mean 'fisher'"):
        sensitivity("fischer", graph, BITWIDTHS)
    for name in ("output_kl", "fisher", "curvature"):
        with pytest.raises(DataError, match="needs calibration batches"):
            sensitivity(name, graph, BITWIDTHS)
    with pytest.raises(PlanError):
        sensitivity("divergence", graph, (1,))


def test_one_of_your_own_decides_a_search():
    asked = []

    @register_sensitivity("last-first")
    def last_first(request):
        asked.append(request.name)
        order = [spec.name for spec in request.graph.layers]
        return {name: {b: (1 + order.index(name)) * 4.0**-b for b in request.bitwidths} for name in order}

    try:
        result = tiny.run("8x", sensitivity="last-first", strategy="ilp", post_training=True)
        assert asked == ["last-first"]
        assert result.met
        with pytest.raises(DataError, match="of its own"):
            register_sensitivity("fisher")
    finally:
        del registry._REGISTERED["last-first"]
