"""Every scenario has a test, and every test that names one names a real one.

Read from the sources, so that it holds whichever tests are run. A test that may
be skipped or is expected to fail proves nothing and does not count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def listed(name: str) -> list[str]:
    lines = (TESTS / name).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def mark_name(node: ast.expr) -> str:
    """The mark that a decorator or a `marks=` sets, such as ``scenario``; empty if it is something else."""
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Attribute) and called.value.attr == "mark":
        return called.attr
    return ""


def named_by(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    marks = [node for top in function.decorator_list for node in ast.walk(top) if isinstance(node, ast.expr)]
    if {"skip", "skipif", "xfail"} & {mark_name(mark) for mark in marks}:
        return
    for mark in marks:
        if isinstance(mark, ast.Call) and mark_name(mark) == "scenario":
            for argument in mark.args:
                assert isinstance(argument, ast.Constant), f"{function.name}: a scenario id is written out"
                yield str(argument.value)


def proofs() -> dict[str, list[str]]:
    """The tests of each scenario, by id."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for scenario in named_by(node):
                    found.setdefault(scenario, []).append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def test_no_scenario_is_listed_twice() -> None:
    ids = listed("scenarios.txt")
    assert len(ids) == len(set(ids))


def test_only_listed_scenarios_are_pending() -> None:
    assert set(listed("scenarios_pending.txt")) <= set(listed("scenarios.txt"))


def test_no_test_names_an_unknown_scenario() -> None:
    unknown = {scenario: tests for scenario, tests in proofs().items() if scenario not in listed("scenarios.txt")}
    assert unknown == {}


def test_a_scenario_with_a_test_is_no_longer_pending() -> None:
    assert sorted(set(proofs()) & set(listed("scenarios_pending.txt"))) == []


def test_every_scenario_that_is_not_pending_has_a_test() -> None:
    pending = listed("scenarios_pending.txt")
    proved = proofs()
    missing = [scenario for scenario in listed("scenarios.txt") if scenario not in pending and scenario not in proved]
    assert missing == [], "without a test: " + " ".join(missing)
