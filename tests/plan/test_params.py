"""What people type about plugins becomes validated parameters, or one line that says what would be right."""

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lgbench.errors import UserError
from lgbench.plan.params import (
    PluginRequest,
    describe_params,
    expand,
    label,
    merge,
    params_json,
    parse_plugins,
    resolve,
)
from lgbench.plan.text import read_assignment, read_plugins, write_value


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Toy:
    class Params(_Params):
        low: int = Field(1, ge=1, description="smallest length")
        power: float = Field(1, ge=0, le=1, description="strength")
        score: Literal["l2", "mean"] = "l2"
        cap: int | None = Field(None, gt=1)
        widths: tuple[int, ...] = (16, 32)
        note: str = Field("", max_length=20)
        flag: bool = True


class SlowClock:
    class Params(_Params):
        power: float = Field(1.0, ge=0, le=1, description="0 leaves the time steps alone")


class Bare:
    class Params(_Params):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vanilla", [("vanilla", {})]),
        (" a , b-c ", [("a", {}), ("b_c", {})]),
        ("a[]", [("a", {})]),
        ("a[low=512],b[tell=[0.5,2]]", [("a", {"low": 512}), ("b", {"tell": [0.5, 2]})]),
        ("a[x=1e-3,y=true,z=null]", [("a", {"x": 1e-3, "y": True, "z": None})]),
        ("a[x = l2 , low-len='2']", [("a", {"x": "l2", "low_len": "2"})]),
        ("a[x=\"p,q]\",y='it\\'s']", [("a", {"x": "p,q]", "y": "it's"})]),
        ("a[x=[[1,2],[3]],y=[]]", [("a", {"x": [[1, 2], [3]], "y": []})]),
        ("a[path=/data/my set,x=True]", [("a", {"path": "/data/my set", "x": "True"})]),
    ],
)
def test_plugins_and_their_parameters_are_read(text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    requests = parse_plugins(text)
    assert [(request.name, request.params) for request in requests] == expected
    for request, (_, params) in zip(requests, expected, strict=True):
        assert [type(value) for value in request.params.values()] == [
            type(value) for value in params.values()
        ]


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("", 1, "expected the name of a plugin"),
        ("a,", 3, "expected the name of a plugin"),
        ("a,,b", 3, "expected the name of a plugin"),
        ("9a", 1, "expected the name of a plugin"),
        ("a b", 3, "expected ',' or '['"),
        ("a]", 2, "expected ',' or '['"),
        ("a[low=1]]", 9, "expected ',' or '['"),
        ("a[low=1", 8, "expected ',' or ']'"),
        ("a[low=[1,2]", 12, "expected ',' or ']'"),
        ("a[", 3, "expected the name of a parameter and '='"),
        ("a[512]", 3, "expected the name of a parameter and '='"),
        ("a[low=1,]", 9, "expected the name of a parameter and '='"),
        ("a[low]", 6, "expected '=' after 'low'"),
        ("a[low=]", 7, "expected a value for low"),
        ("a[low=1 high=2]", 13, "expected ',' before the next parameter"),
        ("a[low=1,low=2]", 9, "low is given twice"),
        ("a[x='q]", 5, "this ' is never closed"),
    ],
)
def test_malformed_text_is_refused_with_position_and_a_correct_example(
    text: str, position: int, problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_plugins(text)
    message = str(caught.value)
    assert message.startswith(f"cannot read '{text}' at character {position} (")
    assert problem in message
    example = message.partition("A correct example: ")[2]
    assert read_plugins(example)[0] == ("first", {"size": 512, "flag": True})
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("truncated.low=512", ("truncated", "low", 512)),
        ("truncated.low=256,512", ("truncated", "low", [256, 512])),
        ("truncated.low=[256,512]", ("truncated", "low", [256, 512])),
        ("omniglot.augment=false", ("omniglot", "augment", False)),
        ("doc-retrieval.note='a,b'", ("doc_retrieval", "note", "a,b")),
    ],
)
def test_assignments_are_read(text: str, expected: tuple[str, str, Any]) -> None:
    assert read_assignment(text) == expected


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b=", "a.b=1,", "a=1", "a.b=1]", ".b=1", "a.b==1"])
def test_malformed_assignments_are_refused_with_a_correct_example(text: str) -> None:
    with pytest.raises(UserError, match=r"at character .* A correct example: plugin\.parameter=512"):
        read_assignment(text)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_every_value_survives_writing_and_reading(value: Any) -> None:
    assert read_plugins(f"a[x={write_value(value)},y=1]") == [("a", {"x": value, "y": 1})]
    assert repr(read_assignment(f"a.x={write_value(value)}")[2]) == repr(value)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1.,=[]'\"\\ -_", max_size=15))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        requests = parse_plugins(text)
    except UserError as error:
        assert f"cannot read '{text}'" in str(error)
    else:
        assert all(request.name.isidentifier() for request in requests)


def test_lists_expand_to_a_grid_whose_last_list_varies_fastest() -> None:
    [request] = parse_plugins("a[x=[1,2],y=l2,z=[true,null]]")
    assert [point.params for point in expand(request)] == [
        {"x": 1, "y": "l2", "z": True},
        {"x": 1, "y": "l2", "z": None},
        {"x": 2, "y": "l2", "z": True},
        {"x": 2, "y": "l2", "z": None},
    ]
    assert expand(PluginRequest("a", {})) == [PluginRequest("a", {})]


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(UserError, match=r"a: x=\[\] is an empty grid"):
        expand(parse_plugins("a[x=[]]")[0])


def test_assignments_reach_their_plugin_and_win_over_brackets() -> None:
    tasks, methods = merge(
        ["b.low=2,3", "b.high=4", "pictures.flag=false"],
        parse_plugins("pictures"),
        parse_plugins("a[low=1],b[low=1,note=x]"),
    )
    assert tasks == [PluginRequest("pictures", {"flag": False})]
    assert methods == [
        PluginRequest("a", {"low": 1}),
        PluginRequest("b", {"low": [2, 3], "note": "x", "high": 4}),
    ]


def test_an_assignment_reaches_a_method_alone_and_as_a_part_of_combinations() -> None:
    _, methods = merge(["a.low=2", "b.high=1,2"], [], parse_plugins("a,a[low=1,note=x]+b,b+c,c"))
    assert methods == [
        PluginRequest("a", {"low": 2}),
        PluginRequest("a+b", {"a.low": 2, "a.note": "x", "b.high": [1, 2]}),
        PluginRequest("b+c", {"b.high": [1, 2]}),
        PluginRequest("c", {}),
    ]
    with pytest.raises(UserError, match=r"'d' is not in this run\. It has: a, b, c, pictures\."):
        merge(["d.low=1"], parse_plugins("pictures"), parse_plugins("a+b,c"))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["c.low=1"],
            "-p c.low=1: 'c' is not in this run. It has: a, b, both, pictures. "
            'A backbone takes its parameters in brackets: --backbone "NAME[KEY=VALUE]"',
        ),
        (["a.low=1", "a.low=2"], "-p a.low=2: low is given twice; a grid is written a.low=VALUE,VALUE"),
        (["both.x=1"], "-p both.x=1: 'both' is both a task and a method here; write both[x=...]"),
    ],
)
def test_an_assignment_without_a_clear_target_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        merge(assignments, parse_plugins("pictures,both"), parse_plugins("a,b,both"))
    assert str(caught.value) == message


def test_values_are_validated_and_defaults_filled_in() -> None:
    params = resolve(Toy, {"low": 512, "widths": [1, 2], "flag": "no"}, "method", "toy")
    assert isinstance(params, Toy.Params)
    assert params.model_dump() == {
        "low": 512, "power": 1, "score": "l2", "cap": None, "widths": (1, 2), "note": "", "flag": False,
    }  # fmt: skip


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError) as caught:
        resolve(SlowClock, {"powr": 0.5}, "method", "slow_clock")
    assert str(caught.value) == (
        "method 'slow_clock' has no parameter 'powr'. It has: power (float, 0 to 1, default 1.0)."
    )
    with pytest.raises(UserError, match=r"method 'bare' has no parameter 'x'\. It has: none\."):
        resolve(Bare, {"x": 1}, "method", "bare")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"low": 0}, "got low=0; low must be at least 1 (int, default 1)"),
        ({"low": 1.5}, "got low=1.5; low must be int (at least 1, default 1)"),
        ({"low": "many"}, "got low=many; low must be int (at least 1, default 1)"),
        ({"low": None}, "got low=null; low must be int (at least 1, default 1)"),
        ({"power": 2}, "got power=2; power must be 0 to 1 (float, default 1)"),
        ({"score": "max"}, "got score=max; score must be l2 or mean (default l2)"),
        ({"cap": 1}, "got cap=1; cap must be above 1 (int or null, default null)"),
        (
            {"widths": [1, "x"]},
            "got widths=[1,x]; widths must be list of int, written [[...]] since [...] is a grid "
            "(default [16,32])",
        ),
        ({"note": "x" * 21}, f'got note={"x" * 21}; note must be at most 20 long (str, default "")'),
        ({"flag": "maybe"}, "got flag=maybe; flag must be bool (default true)"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else "",
)
def test_a_value_out_of_range_is_refused_in_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(Toy, params, "method", "toy")
    assert str(caught.value) == f"method 'toy' {message}"


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        resolve(SlowClock, {"power": -1, "powr": 1}, "method", "slow_clock")
    assert "got power=-1" in str(caught.value)
    assert "it has no parameter 'powr'" in str(caught.value)


def test_a_plugins_own_checks_speak_in_their_own_words() -> None:
    class Checked:
        class Params(_Params):
            low: int
            high: int = 8

            @field_validator("high")
            @classmethod
            def _even(cls, value: int) -> int:
                if value % 2:
                    raise ValueError("high must be even")
                return value

            @model_validator(mode="after")
            def _ordered(self) -> "Checked.Params":
                if self.low > self.high:
                    raise ValueError("low must not exceed high")
                return self

    for params, message in [
        ({}, "needs the parameter low (int)"),
        ({"low": 1, "high": 3}, "got high=3; high must be even (int, default 8)"),
        ({"low": 9}, "refuses these parameters: low must not exceed high"),
    ]:
        with pytest.raises(UserError) as caught:
            resolve(Checked, params, "task", "checked")
        assert str(caught.value) == f"task 'checked' {message}"


def test_parameters_are_described_in_words() -> None:
    described = {info.name: info for info in describe_params(Toy)}
    assert list(described) == ["low", "power", "score", "cap", "widths", "note", "flag"]
    assert tuple(described["low"]) == ("low", "int", "at least 1", "1", "smallest length")
    assert described["cap"][1:4] == ("int or null", "above 1", "null")
    assert described["widths"][1:4] == ("list of int", "", "[16,32]")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "toy"),
        ({"low": 1, "power": 1.0}, "toy"),
        ({"low": 512}, "toy[low=512]"),
        ({"flag": False, "low": 2}, "toy[low=2,flag=false]"),
        ({"widths": [1, 2], "note": "a,b", "cap": 5}, 'toy[cap=5,widths=[[1,2]],note="a,b"]'),
    ],
)
def test_a_label_shows_what_differs_from_the_defaults_and_can_be_typed(
    params: dict[str, Any], expected: str
) -> None:
    resolved = resolve(Toy, params, "method", "toy")
    assert label("toy", resolved) == expected
    [request] = expand(parse_plugins(expected)[0])
    assert resolve(Toy, request.params, "method", request.name) == resolved


def test_equal_parameters_give_equal_json_however_they_were_typed() -> None:
    typed = [{}, {"power": 1}, {"power": "1.0", "low": "1"}, {"widths": [16, 32], "low": 1.0}]
    texts = {params_json(resolve(Toy, params, "method", "toy")) for params in typed}
    assert len(texts) == 1
    [text] = texts
    assert json.loads(text)["power"] == 1.0
    assert text.startswith('{"cap":null,"flag":true,"low":1,')
    assert params_json(resolve(Toy, {"low": 2}, "method", "toy")) not in texts
