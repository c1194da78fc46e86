"""A slice of the search for wrong answers of stacks, budgets and networks, and what it finds."""

from dataclasses import replace

import fuzz_budgets
import fuzz_networks
import fuzz_stacks
import pytest


@pytest.mark.parametrize("seed", range(20))
def test_answers_of_random_networks_hold_against_all_choices(seed):
    lines, status = fuzz_networks.faults(fuzz_networks.network_case(seed))
    assert lines == []
    assert status in ("optimal", "numerical")


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_answers_of_random_budgets_hold_against_all_widths(first):
    for seed in range(first, first + 20):
        assert fuzz_budgets.faults(fuzz_budgets.budget_case(seed))[0] == []


@pytest.mark.parametrize("seed", range(6))
def test_choices_of_random_stacks_hold_against_all_choices(seed):
    assert fuzz_stacks.faults(fuzz_stacks.stack_case(seed))[0] == []


@pytest.mark.parametrize("module", [fuzz_budgets, fuzz_networks])
def test_a_bound_that_is_none_and_a_false_objective_are_found(monkeypatch, module):
    make = {fuzz_budgets: "budget_case", fuzz_networks: "network_case"}[module]
    case, solve = getattr(module, make)(2), module.solve

    def wrong(problem, **options):
        found = solve(problem, **options)
        if module is fuzz_budgets:
            return replace(found, bound=found.value - 1.0, value=found.value + 1.0)
        return replace(found, bound=found.objective + 1.0, objective=2 * found.objective + 1.0)

    monkeypatch.setattr(module, "solve", wrong)
    lines, _ = module.faults(case)
    assert any("the bound is" in line for line in lines)
    assert any("worth" in line for line in lines)


def test_errors_are_faults(monkeypatch):
    def broken(problem, **options):
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr(fuzz_networks, "solve", broken)
    lines, status = fuzz_networks.faults(fuzz_networks.network_case(0))
    assert status == "failed"
    assert "ZeroDivisionError: of the test" in lines[0]
