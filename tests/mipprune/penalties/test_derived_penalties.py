"""Penalties of derived terms on a network: the term's own numbers, in every precision."""

import numpy as np
import pytest
import torch
from tasks import method_of
from test_penalties import gather

from formulations import derive, find
from formulations.symbolic.catalogue import entry
from mipprune.models.registry import build
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.structure.groups import find_groups

SHAPE = (1, 4, 4)
TERMS = {
    "power": entry("power").term(bound=1.2),
    "elastic net": entry("elastic-net").term(),
    "pseudo-Huber": entry("pseudo-huber").term(price=1.5, bound=1.5),
    "big-M": entry("big-m").term(bound=1.5),
    "MCP": entry("mcp").term(),
    "ball": derive("a*r**3", ball=True, bound=4.0).term(),
    "ℓ1": derive("a*r**2", norm=1).term(price=20.0),
    "ℓ1.5 in a box": derive("a*r**2", norm=1.5, bound=1.2).term(price=9.0),
    "implicit": find("cosh(r) - 1").term(),
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = build({"name": "mlp", "shape": SHAPE, "classes": 3, "hidden": [12, 9]})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
        network.layers[0].weight[3] = 0
        network.layers[0].bias[3] = 0
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return network


def numbers(network, tensors):
    groups = find_groups(network, SHAPE)
    return gather(tensors, groups.producers(), groups.count)


def penalty_of(network, term):
    groups = find_groups(network, SHAPE)
    return GroupPenalty(network, groups, term)


def nested_of(network):
    count = find_groups(network, SHAPE).count
    return entry("nested").nested(np.arange(count) // 7, block_price=1.0)


@pytest.mark.parametrize("name", [*TERMS, "nested"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-10)])
def test_penalty_has_the_numbers_of_the_term(name, dtype, tolerance, network):
    term = nested_of(network) if name == "nested" else TERMS[name]
    network = network.to(dtype)
    penalty = penalty_of(network, term)
    penalty.project_()
    parameters = dict(network.named_parameters())
    weights, partition = numbers(network, parameters)

    def close(got, expected):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)

    close(float(penalty.value()), term.value(weights, partition).sum())
    close(penalty.keep().numpy(), term.keep(weights, partition))
    penalty.add_gradient_()
    got, _ = numbers(network, {k: p.grad for k, p in parameters.items()})
    close(got, term.gradient(weights, partition))
    for step in (0.02, 0.3):
        before, _ = numbers(network, parameters)
        penalty.prox_(step)
        after, _ = numbers(network, parameters)
        close(after, term.prox(before, step, partition))


@pytest.mark.parametrize("name", [*TERMS, "nested"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_float32_and_is_safe_at_zero(name, dtype, network):
    term = nested_of(network) if name == "nested" else TERMS[name]
    network = network.to(dtype)
    rounded = {k: p.detach().float() for k, p in network.named_parameters()}
    weights, partition = numbers(network, rounded)
    penalty = penalty_of(network, term)
    outside = int(penalty.project_())
    assert np.isfinite(float(penalty.value())) or outside
    if not outside:
        value = term.value(weights, partition).sum()
        assert float(penalty.value()) == pytest.approx(value, rel=1e-5)
    penalty.add_gradient_()
    before, _ = numbers(network, {k: p.detach().float() for k, p in network.named_parameters()})
    penalty.prox_(0.1)
    for parameter in network.parameters():
        assert torch.isfinite(parameter).all()
        assert torch.isfinite(parameter.grad).all()
    assert (network.layers[0].weight[3] == 0).all()
    assert (network.layers[0].weight.grad[3] == 0).all()
    after, _ = numbers(network, {k: p.detach().float() for k, p in network.named_parameters()})
    expected = term.prox(before, 0.1, partition)
    close = {torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    np.testing.assert_allclose(after, expected, rtol=0, atol=close * np.abs(before).max())


def spr_of(network, **settings):
    return method_of("spr", network, {"weights": "all", **settings}, budget={"macs": 0.6})


def test_square_by_name_is_the_paper_s_parametrisation(network):
    method = spr_of(network, alpha=0.2, lam=0.5)
    term = method.parts[0].penalty.term
    assert torch.allclose(term.ridge, torch.tensor(0.5 * 0.2))
    assert float(term.price.mean()) == pytest.approx(0.5 * 0.8, rel=0.3)


def test_term_s_own_bound_comes_first_and_nested_terms_take_layers_as_blocks(network, tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from formulations import derive\nterm = derive('r**2', bound=7.0)\n")
    assert set(spr_of(network, term=str(file)).bounds.values()) == {7.0}
    method = spr_of(network, term="nested")
    assert len(method.parts[0].penalty.term.block_price) == 2
    assert method.select().sum() < len(method.select())


def test_term_that_never_pays_is_refused_before_training(network):
    with pytest.raises(ValueError, match=r"lower the price, or give method\.bound"):
        spr_of(network, term="a*(sqrt(1 + r**2) - 1)", bound=None)


@pytest.mark.parametrize("term", ["mcp", "nested", "elastic-net"])
def test_state_restores_the_term(term, network):
    method = spr_of(network, term=term)
    method.lam = 0.3
    method.update()
    state = method.state_dict()
    other = spr_of(network, term=term)
    other.load_state_dict(state)
    values = [m.parts[0].penalty.value() for m in (method, other)]
    assert torch.equal(*values)
