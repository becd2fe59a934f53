"""Which linears are widened, and how many."""

import pytest

from q3_export.quantize.formats import BLOCKS4, BLOCKS8
from q3_export.quantize.sensitivity import Plan
from q3_export.quantize.widening import reached, widened

TARGET = {"mean": 0.97, "min": 0.95}


def plan(**narrow: float) -> Plan:
    return Plan(BLOCKS4, BLOCKS8, narrow=narrow, wide=dict.fromkeys(narrow, 0.0), weights=dict.fromkeys(narrow, 1000))


def test_nothing_is_asked_of_figures_that_are_good_enough() -> None:
    assert reached({"mean": 0.97, "min": 0.95, "p5": 0}, TARGET)
    assert not reached({"mean": 0.98, "min": 0.9499}, TARGET)
    assert not reached({"mean": 0.9699, "min": 0.96}, TARGET)


def test_the_costliest_go_first_and_only_as_many_as_needed() -> None:
    costs = plan(a=1.0, b=5.0, c=2.0, d=0.5, e=0.5)  # of 9: widening b leaves 4, less than half; c leaves 2
    assert widened(costs, [], {"mean": 0.9700001 - 0.0033, "min": 0.95}, TARGET) == ["b"]
    assert widened(costs, [], {"mean": 0.94, "min": 0.90}, TARGET) == ["b"]
    assert widened(costs, [], {"mean": 0.92, "min": 0.90}, TARGET) == ["b", "c"]


def test_a_small_linear_goes_before_a_large_one_that_saves_little_more() -> None:
    costs = plan(large=3.0, small=2.0)
    costs.weights.update(large=3000, small=1000)
    assert widened(costs, [], {"mean": 0.96, "min": 0.95}, TARGET) == ["small"]


def test_a_round_always_adds_one_and_keeps_those_before() -> None:
    costs = plan(a=1.0, b=5.0, c=2.0)
    assert widened(costs, ["a"], {"mean": 0.9699999, "min": 0.95}, TARGET)[:2] == ["a", "b"]


def test_hopeless_figures_widen_everything() -> None:
    assert sorted(widened(plan(a=1.0, b=5.0, c=2.0), [], {"mean": 0.1, "min": -0.2}, TARGET)) == ["a", "b", "c"]


def test_what_the_wider_format_itself_costs_is_counted() -> None:
    costs = plan(a=2.0, b=2.1)
    costs.wide.update(a=0.0, b=2.05)
    assert widened(costs, [], {"mean": 0.96, "min": 0.95}, TARGET)[0] == "a"


@pytest.mark.parametrize("goal", ["mean", "min"])
def test_the_goal_that_is_missed_further_decides(goal: str) -> None:
    figures = {"mean": 0.97, "min": 0.95} | {goal: 0.5}
    assert len(widened(plan(a=1.0, b=1.0, c=1.0, d=1.0), [], figures, TARGET)) == 4
