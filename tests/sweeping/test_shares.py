"""All workers find room, and more would not have fitted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.errors import SigmaQuantError
from sigmaquant.sweeping.worker_resources import Share, share

MACHINES = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 9)}, optional={"GPU": st.integers(0, 3)}), min_size=1, max_size=4
)


def placed(machines: list[dict[str, int]], each: Share) -> int:
    """How many workers Ray gets onto the machines: it counts in parts of a ten-thousandth."""
    count = 0
    for machine in machines:
        processors, gpus = machine["CPU"], [10_000] * machine.get("GPU", 0)
        while processors >= each.threads:
            wanted = round(each.gpus * 10_000)
            index = next((i for i, left in enumerate(gpus) if left >= wanted), None)
            if wanted and index is None:
                break
            if index is not None:
                gpus[index] -= wanted
            processors -= each.threads
            count += 1
    return count


@given(MACHINES, st.integers(1, 12), st.booleans())
def test_all_fit_or_it_is_told_how_many_do(machines: list[dict[str, int]], jobs: int, on_gpu: bool) -> None:
    most = placed(machines, Share(1, 1 / 10_000 if on_gpu else 0.0))
    if most < jobs:
        with pytest.raises(SigmaQuantError, match=rf"room for {most}\.|offers a GPU"):
            share(machines, jobs, on_gpu=on_gpu)
        return
    each = share(machines, jobs, on_gpu=on_gpu)
    assert placed(machines, each) >= jobs
    assert placed(machines, Share(each.threads + 1, each.gpus)) < jobs
    assert each.gpus > 0 if on_gpu else each.gpus == 0


@pytest.mark.parametrize(
    ("gpus", "jobs", "part"), [(1, 1, 1.0), (4, 2, 1.0), (2, 3, 0.5), (1, 3, 0.3333), (1, 6, 0.1666), (8, 9, 0.5)]
)
def test_as_few_on_a_gpu_as_there_must_be(gpus: int, jobs: int, part: float) -> None:
    assert share([{"CPU": 64.0, "GPU": gpus}], jobs, on_gpu=True).gpus == part


def test_given_threads_are_kept() -> None:
    assert share([{"CPU": 8.0}], 2, threads=1).threads == 1
    with pytest.raises(SigmaQuantError, match="room for 2"):
        share([{"CPU": 8.0}], 3, threads=4)


def test_no_gpu_for_those_that_need_one() -> None:
    with pytest.raises(SigmaQuantError, match="device 'cpu'"):
        share([{"CPU": 8.0}], 2, on_gpu=True)
