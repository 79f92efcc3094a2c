"""JSON to dataclasses and back: what fits comes back, what does not is named with its path."""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanlib.paper.decoding import decode, encode


class Point(NamedTuple):
    x: float
    count: int


@dataclass
class Inner:
    name: str
    flag: bool | None = None


@dataclass
class Outer:
    size: int | None
    inner: Inner
    points: list[Point] = field(default_factory=list)
    by_level: dict[int, list[Any]] = field(default_factory=dict)
    values: dict[str, float | None] = field(default_factory=dict)


NUMBERS = st.floats(-1e9, 1e9).map(lambda value: float(f"{value:.7g}"))
OUTERS = st.builds(
    Outer,
    st.none() | st.integers(-(2**80), 2**80),
    st.builds(Inner, st.text(), st.none() | st.booleans()),
    st.lists(st.builds(Point, NUMBERS, st.integers())),
    st.dictionaries(st.integers(0, 10**6), st.lists(NUMBERS)),
    st.dictionaries(st.text(), st.none() | NUMBERS),
)


@given(OUTERS)
def test_decode_returns_what_was_encoded(value):
    again = decode(Outer, json.loads(json.dumps(encode(value), allow_nan=False)))
    assert again == value
    assert all(type(point) is Point for point in again.points)


@given(OUTERS)
def test_encode_is_asdict_without_defaults(value):
    plain = json.loads(json.dumps(asdict(value)))
    for name in ("points", "by_level", "values"):
        if not plain[name]:
            del plain[name]
    if plain["inner"]["flag"] is None:
        del plain["inner"]["flag"]
    assert json.loads(json.dumps(encode(value))) == plain


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_encode_rounds_and_makes_null_of_what_is_not_finite(value):
    assert encode({"a": [value, math.pi, 3]}) == {"a": [None, 3.141593, 3]}


GOOD = {"size": 4, "inner": {"name": "a"}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "it must be an object, got []"),
        ({"size": 4}, "inner is missing"),
        ({**GOOD, "size": 4.0}, "size must be an integer, got 4.0"),
        ({**GOOD, "size": True}, "size must be an integer, got True"),
        ({**GOOD, "inner": None}, "inner must be an object, got None"),
        ({**GOOD, "inner": {"name": 1}}, "inner.name must be a text, got 1"),
        ({**GOOD, "inner": {"name": "", "flag": 0}}, "inner.flag must be true or false, got 0"),
        ({**GOOD, "inner": {"name": "", "title": 0}}, "inner.title is unknown"),
        ({**GOOD, "points": {}}, "points must be a list, got {}"),
        ({**GOOD, "points": [[1.0, 1], 2]}, "points[1] must be a list, got 2"),
        ({**GOOD, "points": [[1.0]]}, "points[0] must have 2 entries, got [1.0]"),
        ({**GOOD, "points": [[None, 1]]}, "points[0][0] must be a number, got None"),
        ({**GOOD, "by_level": {"-1": []}}, "names in by_level must be integers, got '-1'"),
        ({**GOOD, "by_level": {"²": []}}, "names in by_level must be integers, got '²'"),
        ({**GOOD, "by_level": {"1": 2}}, "by_level.1 must be a list, got 2"),
        ({**GOOD, "values": {"a": "b"}}, "values.a must be a number, got 'b'"),
        ({**GOOD, "values": {"a": 1e300}}, "values.a must be a number, got 1e+300"),
    ],
)
def test_decode_names_what_does_not_fit(value, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        decode(Outer, value)
