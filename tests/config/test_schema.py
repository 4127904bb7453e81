"""The typed reader: what each type takes, and that every mistake is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, Literal

import pytest

from cnnbench.config.schema import (
    ConfigError,
    Count,
    Probability,
    Problem,
    Range,
    Ratio,
    expectation,
    read_arguments,
    read_node,
    read_value,
)

SMALL = Annotated[int, Range(ge=1, lt=5)]
SHARE = Annotated[float, Range(gt=0, le=1), Ratio()]
INFINITE = float("inf")


@pytest.mark.parametrize(
    ("kind", "loaded", "wanted"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, 1e-8, 1e-8),
        (bool, False, False),
        (str, "null", "null"),
        (SMALL, 4, 4),
        (SMALL | None, None, None),
        (SHARE, "1/16", 1 / 16),
        (SHARE, " 3 / 4", 0.75),
        (SHARE, 1, 1.0),
        (Literal["a", 2], 2, 2),
        (bool | Literal["auto"], "auto", "auto"),
        (bool | Literal["auto"], True, True),
        (tuple[SMALL, ...], [1, 2], (1, 2)),
        (tuple[float, ...], (1, 0.5), (1.0, 0.5)),
        (tuple[SMALL, ...], [], ()),
    ],
)
def test_values_that_fit(kind: Any, loaded: Any, wanted: Any) -> None:
    value = read_value(kind, loaded)
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("kind", "loaded"),
    [
        (int, 3.0),
        (int, True),
        (int, "3"),
        (float, "3"),
        (float, True),
        (float, INFINITE),
        (float, -INFINITE),
        (float, float("nan")),
        pytest.param(float, 10**400, id="huge"),
        pytest.param(SHARE, "9" * 4000 + "/1", id="huge ratio"),
        (bool, 0),
        (bool, "true"),
        (str, 3),
        (str, None),
        (SMALL, 0),
        (SMALL, 5),
        (SHARE, "0/4"),
        (SHARE, "1/0"),
        (SHARE, "5/4"),
        (SHARE, "-1/4"),
        (SHARE, "a/b"),
        (SHARE, "²/3"),
        pytest.param(SHARE, "9" * 5000 + "/1", id="too long a ratio"),
        (float, "1/16"),
        (Literal["a", 1], True),
        (Literal["a", 1], 1.0),
        (Literal["a"], "A"),
        (tuple[SMALL, ...], 1),
        (tuple[SMALL, ...], "12"),
        (tuple[SMALL, ...], [1, 9]),
        (tuple[SMALL, ...], {1: 2}),
        (SMALL | None, 9),
    ],
)
def test_values_that_do_not(kind: Any, loaded: Any) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_value(kind, loaded)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (SMALL, "a whole number >= 1 and < 5"),
        (SHARE, "a number or a fraction such as 1/16 > 0 and <= 1"),
        (SMALL | None, "a whole number >= 1 and < 5 or null"),
        (Literal["a", "b"], "one of a, b"),
        (bool | Literal["auto"], "true or false or one of auto"),
        (tuple[SMALL, ...], "a list of values, each a whole number >= 1 and < 5"),
        (str, "text"),
    ],
)
def test_what_is_expected_in_words(kind: Any, words: str) -> None:
    assert expectation(kind) == words


@dataclass(frozen=True)
class Inner:
    name: str
    size: SMALL
    limit: SMALL | None
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    mode: Literal["fast", "slow"]


ARGUMENTS = {("inner", "depth"): SMALL, ("other", "width"): SMALL}
GOOD = {"inner": {"name": "n", "size": 1, "depth": 2}, "mode": "fast"}


def mistakes(tree: Any) -> list[str]:
    problems: list[Problem] = []
    node = read_node(Outer, tree, ARGUMENTS, problems)
    assert (node is None) == bool(problems)
    return list(map(str, problems))


def test_a_tree_becomes_frozen_dataclasses() -> None:
    problems: list[Problem] = []
    node = read_node(Outer, GOOD, ARGUMENTS, problems)
    assert node == Outer(Inner("n", 1, None, node.inner.args), "fast")
    assert dict(node.inner.args) == {"depth": 2}
    with pytest.raises(FrozenInstanceError):
        node.mode = "slow"
    with pytest.raises(TypeError):
        node.inner.args["depth"] = 3


def test_all_mistakes_are_found_together() -> None:
    tree = {
        "inner": {"name": 3, "size": "???", "limit": 9, "depht": 2, "width": 1},
        "mode": "fats",
        "colour": 1,
    }
    assert mistakes(tree) == [
        """inner.name=3: expected text; in quotes it is text: "inner.name='...'\"""",
        "inner.size: missing; expected a whole number >= 1 and < 5",
        "inner.limit=9: expected a whole number >= 1 and < 5 or null",
        "inner.depht: unknown key; did you mean 'depth'?",
        "inner.width: unknown key; did you mean 'depth'?",
        "mode=fats: expected one of fast, slow; did you mean 'fast'?",
        "colour: unknown key",
    ]


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"mode": "fast"}, "inner: missing; expected a group of keys"),
        ({**GOOD, "inner": 3}, "inner=3: expected a group of keys"),
        ({**GOOD, "inner": None}, "inner=null: expected a group of keys"),
        ({"inner": GOOD["inner"]}, "mode: missing; expected one of fast, slow"),
        ({**GOOD, "mode": "x" * 500}, f"mode={'x' * 77}...: expected one of fast, slow"),
        ({**GOOD, "mode": b"ab"}, """mode="b'ab'": expected one of fast, slow"""),
        (3, "=3: expected a group of keys"),
    ],
)
def test_one_mistake(tree: Any, problem: str) -> None:
    assert mistakes(tree) == [problem]


def test_an_error_says_each_problem_once() -> None:
    problem = Problem("a", ": b")
    assert str(ConfigError([problem, Problem("c", ": d"), problem])) == "a: b\nc: d"


class Network:
    def __init__(
        self,
        *,
        dropout: Probability = 0.5,
        widths: tuple[Count, ...] = (),
        pool: Literal["max", "avg"] = "max",
        block: type[object] = object,
        scale: float | None = None,
        window: tuple[int, int] = (2, 2),
        mixed: tuple[int, str] = (2, "a"),
    ) -> None: ...


def test_arguments_are_read_as_a_constructor_annotates_them() -> None:
    args = {"dropout": 0, "widths": [1, 2], "scale": None, "window": (2, 3)}
    args |= {"block": 3, "mixed": [3, "b"], "x": [1]}
    read = read_arguments(Network, args)
    # What no setting can be, and what the constructor does not know, passes as it is.
    assert read == {**args, "widths": (1, 2)}
    assert type(read["dropout"]) is float


def test_all_arguments_that_do_not_fit_are_reported_together() -> None:
    args = {"dropout": 1.0, "widths": [0], "pool": "mx", "scale": "2"}
    with pytest.raises(ConfigError) as caught:
        read_arguments(Network, args, "model.args.")
    assert str(caught.value).splitlines() == [
        "model.args.dropout=1.0: expected a number >= 0 and < 1",
        "model.args.widths=[0]: expected a list of values, each a whole number >= 1",
        "model.args.pool=mx: expected one of max, avg; did you mean 'max'?",
        "model.args.scale='2': expected a number or null",
    ]


def test_annotations_that_cannot_be_resolved_check_nothing() -> None:
    def network(*, width: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert read_arguments(network, {"width": "x"}) == {"width": "x"}
