"""The arena's plan and strides, as properties."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.export.c.arena import ALIGNMENT, Lifetime, gaps, plan_arena
from sigmaquant.export.c.layout import Loop, View, channels_last, dense, loops, natural
from sigmaquant.export.c.program import Program, Scratch, Step, place

lifetimes = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length),
    st.integers(1, 60), st.integers(0, 12), st.integers(0, 6),
)  # fmt: skip
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@given(st.lists(lifetimes, max_size=15))
def test_no_two_live_buffers_overlap(buffers):
    offsets, total = plan_arena(buffers)
    for i, (a, start) in enumerate(zip(buffers, offsets, strict=True)):
        assert start % ALIGNMENT == 0
        assert start + a.size <= total
        for b, other in list(zip(buffers, offsets, strict=True))[:i]:
            apart = start + a.size <= other or other + b.size <= start
            assert apart or not a.meets(b), (a, start, b, other)


@given(st.lists(lifetimes, min_size=1, max_size=15))
def test_the_arena_lies_between_the_bounds(buffers):
    aligned = [-(-b.size // ALIGNMENT) * ALIGNMENT for b in buffers]
    _, total = plan_arena(buffers)
    steps = range(max(b.last for b in buffers) + 1)
    least = max(sum(n for n, b in zip(aligned, buffers, strict=True) if b.first <= s <= b.last) for s in steps)
    assert least <= total <= sum(aligned)


def test_a_buffer_takes_the_smallest_gap_that_holds_it():
    long = [Lifetime(40, 0, 0), Lifetime(36, 0, 9), Lifetime(32, 0, 1), Lifetime(28, 0, 9)]
    offsets, total = plan_arena([*long, Lifetime(24, 2, 9)])  # at 2 there are gaps of 40 and of 32
    assert (offsets, total) == ([0, 40, 76, 108, 76], 136)


@given(st.lists(st.tuples(st.integers(0, 40).map(lambda n: 4 * n), st.integers(1, 30)), max_size=6))
def test_gaps_are_what_is_not_taken(taken):
    used = {byte for start, size in taken for byte in range(start, -(-(start + size) // 4) * 4)}
    found = gaps(taken)
    assert found[-1][1] is None
    free = {byte for start, size in found for byte in range(start, 400 if size is None else start + size)}
    assert free == set(range(400)) - used


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 60000))
def test_blocks_fit_and_are_whole_fours(row, rows, spare):
    scratch = Scratch(10, row, rows)
    smallest = scratch.block()
    largest = scratch.largest_block(scratch.bytes(smallest) + spare)
    for block in (smallest, largest):
        assert 1 <= block <= rows
        assert block % 4 == 0 or block == rows
    assert scratch.bytes(largest) <= scratch.bytes(smallest) + spare
    assert largest >= smallest


def test_a_program_without_memory_of_its_own_has_no_arena():
    program = Program()
    program.buffer((4,), caller="input")
    assert place(program).arena_bytes == 0


def test_a_sum_takes_over_the_memory_of_a_term_that_ends_there():
    def program(kernel):
        made = Program()
        given, result = made.buffer((64,), caller="input"), made.buffer((64,), caller="output")
        first, second, total = (made.buffer((64,)) for _ in range(3))
        for source, target in ((given, first), (first, second)):
            made.steps.append(Step("s", "sq_lookup_elsewhere", {}, (source,), target))
        made.steps.append(Step("sum", kernel, {}, (first, second), total))
        made.steps.append(Step("s", "sq_copy", {}, (total,), result))
        return made

    placed = place(program("sq_add"))
    assert placed.arena_bytes == 128
    assert placed.in_place == {4: 2}
    assert placed.offsets[4] == placed.offsets[2]
    assert place(program("sq_conv")).arena_bytes == 192


# -- strides -----------------------------------------------------------------------------------------------------


@st.composite
def views(draw):
    """A view of numbers 0, 1, 2, ..., and the tensor that torch makes of it."""
    shape = draw(shapes)
    strides = dense(shape, tuple(draw(st.permutations(range(len(shape))))))
    view = View(0, 0, shape, strides)
    if draw(st.booleans()):
        axis = draw(st.integers(0, len(shape) - 1))
        start = draw(st.integers(0, shape[axis] - 1))
        step = draw(st.integers(1, 2))
        view = view.sliced(axis, start, step, len(range(start, shape[axis], step)))
    return view, tensor(view)


def tensor(view: View) -> torch.Tensor:
    return torch.arange(1000).as_strided(view.shape, view.strides, view.offset)


@given(views(), st.data())
def test_reshapes_are_views_where_torch_has_them(case, data):
    view, expected = case
    count = math.prod(view.shape)
    first = data.draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    shape = data.draw(st.sampled_from([(count,), (first, count // first), (1, first, 1, count // first), (first, -1)]))
    shape = tuple(expected.reshape(shape).shape)
    try:
        wanted = expected.view(shape)
    except RuntimeError:
        wanted = None
    found = view.reshaped(shape)
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert torch.equal(tensor(found), wanted)


@given(views(), st.data())
def test_permutations_and_slices_are_torchs(case, data):
    view, expected = case
    axes = tuple(data.draw(st.permutations(range(len(view.shape)))))
    assert torch.equal(tensor(view.permuted(axes)), expected.permute(axes))


@given(shapes)
def test_layouts(shape):
    assert natural(shape) == torch.zeros(shape).contiguous().stride()
    moved = torch.zeros(*shape[1:], shape[0]).movedim(-1, 0)
    view = View(0, 0, shape, channels_last(shape))
    assert view.has(tuple(moved.stride()))
    assert view.is_dense
    assert view.has(dense(shape, view.strides))


@given(views(), st.data())
def test_loops_visit_every_code_once(case, data):
    view, expected = case
    target = dense(view.shape, tuple(data.draw(st.permutations(range(len(view.shape))))))
    found = loops(view.shape, view.strides, target)
    places = torch.full((math.prod(view.shape),), -1)
    for index in itertools.product(*(range(loop.count) for loop in found)):
        at, to = (sum(i * loop.steps[k] for i, loop in zip(index, found, strict=True)) for k in range(2))
        assert places[to] == -1
        places[to] = view.offset + at
    assert torch.equal(places.as_strided(view.shape, target), expected)


def test_loops_are_as_few_as_can_be():
    assert len(loops((2,) * 5, (1, 2, 4, 8, 16), (16, 8, 4, 2, 1))) == 5
    assert loops((2, 3, 4), (12, 4, 1), (12, 4, 1)) == [Loop(24, (1, 1))]
    assert loops((2, 1, 4), (4, 9, 1), (8, 9, 1)) == [Loop(2, (4, 8)), Loop(4, (1, 1))]
    assert loops((), ()) == []


@given(rows=st.integers(1, 3), shape=shapes)
def test_rows_come_back(rows, shape):
    view = Program().buffer(shape, channels_last(shape), rows)
    assert view.whole.count == rows * view.count
    assert view.whole.folded(rows).whole == view.whole


def test_a_new_index_lies_beside_the_dimension_before_it():
    windowed = View(0, 0, (3, 4, 5), channels_last((3, 4, 5)))
    stuffed = windowed.reshaped((3, 4, 1, 5, 1))
    assert stuffed is not None
    larger = View(0, 0, (3, 4, 2, 5, 2), stuffed.dense_for((3, 4, 2, 5, 2)))
    assert larger.is_dense
    merged = larger.reshaped((3, 8, 10))
    assert merged is not None
    assert merged.has(channels_last((3, 8, 10)))
