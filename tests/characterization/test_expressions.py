"""Boolean functions as Liberty writes them."""

from __future__ import annotations

import itertools

import pytest

from sigmaquant.characterization.expressions import parse_expression

CASES = [
    ("A", lambda a: a),
    ("!A", lambda a: not a),
    ("A'", lambda a: not a),
    ("!(A*B)", lambda a, b: not (a and b)),
    ("A B'", lambda a, b: a and not b),
    ("A*B+C", lambda a, b, c: (a and b) or c),
    ("A+B*C", lambda a, b, c: a or (b and c)),
    ("A^B*C", lambda a, b, c: (a != b) and c),  # exclusive or binds more than and
    ("A | B & C", lambda a, b, c: a or (b and c)),
    ("(S*A)+(S'*B)", lambda s, a, b: a if s else b),
    ("!A'", lambda a: a),
    ("(A+B)'", lambda a, b: not (a or b)),
    ("!(A^B)^C", lambda a, b, c: (a == b) != c),
    ("A[0] * A[1]", lambda a, b: a and b),
]


@pytest.mark.parametrize(("text", "function"), CASES, ids=[text for text, _ in CASES])
def test_functions_mean_what_liberty_says(text, function):
    expression = parse_expression(text)
    for row, values in enumerate(itertools.product((0, 1), repeat=len(expression.names))):
        values = values[::-1]  # variable 0 is the lowest bit of the row
        assert expression.truth() >> row & 1 == bool(function(*values)), values


def test_constants():
    assert parse_expression("1").truth() == 1
    assert parse_expression("0").truth() == 0
    assert parse_expression("A*0").truth() == 0


def test_compiled_functions_work_on_many_streams_at_once():
    function = parse_expression("!(A*B)").compiled()
    assert function(0b1100, 0b1010, 0b1111) == 0b0111


@pytest.mark.parametrize(
    ("known", "possible"),
    [({}, True), ({"CK": 1}, False), ({"CK": 0}, True), ({"CK": 0, "D": 0}, False), ({"Q": 1}, True)],
)
def test_possible_states(known, possible):
    assert parse_expression("!CK*D").possible(known) is possible


@pytest.mark.parametrize("text", ["", "A+", "A*(B", "A)", "*A", "A $ B", "!"])
def test_what_is_no_function_is_refused(text):
    with pytest.raises(ValueError, match=r"cannot be read|missing|not closed"):
        parse_expression(text)
