"""Paddings: every place reads the same inputs as in torch."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from sigmaquant.export.litert.geometry import lifted, padding_of, windows_of


def read_inputs(size, places, kernel, stride, dilation, before):
    """For each place the inputs that its taps read; None is padding."""
    taps = [[p * stride - before + k * dilation for k in range(kernel)] for p in range(places)]
    return [[i if 0 <= i < size else None for i in place] for place in taps]


def tensorflow_inputs(name, size, kernel, stride, dilation):
    """The same by TensorFlow's documentation of its paddings."""
    reach = (kernel - 1) * dilation + 1
    if name == "VALID":
        return read_inputs(size, (size - reach + stride) // stride, kernel, stride, dilation, 0)
    places = -(-size // stride)
    total = max((places - 1) * stride + reach - size, 0)
    return read_inputs(size, places, kernel, stride, dilation, total // 2)


numbers = st.tuples(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


@given(numbers, st.integers(0, 4), st.integers(0, 4))
def test_every_place_reads_what_it_should(geometry, before, after):
    size, kernel, stride, dilation = geometry
    reach = (kernel - 1) * dilation + 1
    assume(size + before + after >= reach)
    places = (size + before + after - reach) // stride + 1
    name, ((left, right),) = padding_of(windows_of([size], [places], [kernel], [stride], [dilation], [before]))
    found = tensorflow_inputs(name, size + left + right, kernel, stride, dilation)
    shifted = [[i - left if i is not None and left <= i < left + size else None for i in place] for place in found]
    assert shifted == read_inputs(size, places, kernel, stride, dilation, before)
    assert right <= after


def test_padding_by_hand_only_where_it_must_be():
    assert padding_of(windows_of([32], [32], [3], [1], [1], [1])) == ("SAME", ((0, 0),))
    assert padding_of(windows_of([33], [17], [3], [2], [1], [1])) == ("SAME", ((0, 0),))
    assert padding_of(windows_of([32], [16], [3], [2], [1], [1])) == ("VALID", ((1, 0),))  # SAME would pad after
    assert padding_of(windows_of([32], [30], [3], [1], [1], [0])) == ("VALID", ((0, 0),))
    both = windows_of([8, 9], [4, 5], [3, 3], [2, 2], [1, 1], [1, 1])
    assert padding_of(both) == ("VALID", ((1, 0), (1, 1)))


def test_one_dimension_is_an_image_of_one_row():
    assert lifted([3], 1) == (1, 3)
    assert lifted([3, 2], 1) == (3, 2)
