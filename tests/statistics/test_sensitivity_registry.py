import pytest
from statistics_cases import branches

from sigmaquant.errors import DataError, PlanError
from sigmaquant.statistics import SENSITIVITIES, divergences, fisher_sensitivities, output_sensitivity, sensitivity

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
