"""Penalties in a fixed number of operations: the term's numbers, whatever the weights look like.

The Triton kernels run on a GPU where there is one, else in Triton's interpreter.
"""

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_penalties import gather
from torch.utils._python_dispatch import TorchDispatchMode

from formulations import derive, square
from formulations.errors import InputError
from formulations.symbolic.catalogue import entry
from mipprune.models.registry import build
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.penalties.layout import MakeBackend
from mipprune.penalties.torch_backend import Operations
from mipprune.structure.groups import Groups, Member, find_groups

TERMS = {
    "square": square(0.3, 0.4),
    "square in a box": square(0.2, 0.5, 1.3),
    "elastic net": entry("elastic-net").term(bound=2.0),
    "big-M": entry("big-m").term(bound=1.5),
    "ball": derive("a*r**2", ball=True, bound=3.0).term(),
    "ℓ1": derive("a*r**2", norm=1).term(price=5.0),
}
SHAPES = [(5,), (4, 3), (6, 2, 3, 3), (3, 4, 1, 1), (2, 5, 2, 2), (7, 1), (12, 5600)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@st.composite
def networks(draw, dtype=torch.float64):
    """Parameters of random shapes, layouts and values, and members of random groups."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    parameters, members, count = {}, [], draw(st.integers(1, 6))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6))
    for number, shape in enumerate(shapes):
        weight = torch.randn(shape, generator=generator, dtype=dtype)
        if len(shape) == 4 and draw(st.booleans()):
            weight = weight.to(memory_format=torch.channels_last)
        axes = [0, 1, None] if weight.numel() < 1000 and len(shape) > 1 else [0]
        axis = draw(st.sampled_from(axes))
        size = weight.numel() if axis is None else shape[axis]
        group = torch.randint(-1, count, (size,), generator=generator).numpy()
        if number == 0:
            group[0] = 0
        parameters[f"w{number}"] = torch.nn.Parameter(weight)
        members.append(Member(f"w{number}", axis, group, "producer"))
    used = np.unique(np.concatenate([m.group[m.group >= 0] for m in members]))
    number = np.full(count + 1, -1)
    number[used] = np.arange(len(used))
    members = [Member(m.tensor, m.axis, number[m.group], m.role) for m in members]
    return parameters, members, len(used)


class Way(NamedTuple):
    """An implementation under test, its weights' device, and how many examples it can take."""

    backend: MakeBackend
    device: str
    examples: int


@pytest.fixture(params=["operations", "kernels"])
def way(request, monkeypatch):
    if request.param == "operations":
        return Way(Operations, "cpu", 10)
    if not find_spec("triton"):
        pytest.skip("Triton is not installed: pip install triton (it interprets its kernels here)")
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    from mipprune.penalties.triton_backend import Kernels

    # fewer where Triton's interpreter takes its time
    return Way(Kernels, DEVICE, 2 if DEVICE == "cpu" else 10)


def moved(network, device):
    parameters, members, count = network
    return {k: torch.nn.Parameter(p.detach().to(device)) for k, p in parameters.items()}, (
        members,
        count,
    )


def rows_of(count):
    """Every row of the tensor w as a group."""
    return Groups(count, (Member("w", 0, np.arange(count), "producer"),))


def host(tensors):
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def check_numbers(network, name, step, way, tolerance):
    """Value, keep-scores, gradient and proximal step of a penalty are the term's."""
    parameters, (members, count) = moved(network, way.device)
    term = TERMS[name]
    penalty = GroupPenalty(parameters, Groups(count, tuple(members)), term, backend=way.backend)
    penalty.project_()
    before = host({k: p.clone() for k, p in parameters.items()})
    weights, groups = gather(before, members, count)

    def close(got, expected):
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)

    close(float(penalty.value()), term.value(weights, groups).sum())
    close(penalty.keep().cpu().numpy(), term.keep(weights, groups))
    first = next(iter(parameters))
    for key, parameter in parameters.items():
        parameter.grad = None if key == first else torch.ones_like(parameter)
    penalty.add_gradient_()
    assert parameters[first].grad is None
    gradients = {k: before[k] * 0 if p.grad is None else p.grad - 1 for k, p in parameters.items()}
    got, _ = gather(host(gradients), members, count)
    expected = term.gradient(weights, groups)
    trained, _ = gather({k: before[k] * 0 + (k != first) for k in before}, members, count)
    close(got * trained, expected * trained)
    penalty.prox_(step)
    after = host(parameters)
    close(gather(after, members, count)[0], term.prox(weights, step, groups))
    for member in members:  # what belongs to no group stays, bit for bit
        axis, outside = member.axis, np.flatnonzero(member.group < 0)
        old, new = (np.take(t[member.tensor].numpy(), outside, axis) for t in (before, after))
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("name", [*TERMS])
def test_any_layout_of_the_weights_gives_the_numbers_of_the_term(name, way):
    if way.device == "cuda" and name == "square in a box":
        pytest.skip("on a GPU this one is explicit where the box decides: see the test of that")

    @settings(max_examples=way.examples, deadline=None, derandomize=True)
    @given(networks(), st.floats(1e-4, 1.0))
    def check(network, step):
        check_numbers(network, name, step, way, 1e-9)

    check()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(networks(), st.sampled_from([*TERMS]), st.integers(0, 2**31))
def test_gradient_is_the_slope_of_the_value(network, name, seed):
    parameters, members, count = network
    penalty = GroupPenalty(parameters, Groups(count, tuple(members)), TERMS[name])
    _, peak = penalty.norms()
    with torch.no_grad():
        for parameter in parameters.values():  # inside the bound, where the value is finite
            parameter.mul_(0.5 / max(1.0, float(peak.max())))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    penalty.add_gradient_()
    generator = torch.Generator().manual_seed(seed)
    # the direction fades at zeros of single weights, where ‖·‖₁ has a kink
    ways = {
        k: torch.rand(p.shape, generator=generator, dtype=p.dtype) * p.detach()
        for k, p in parameters.items()
    }
    h, values = 1e-6, []
    for sign in (1, -2, 1):
        values.append(float(penalty.value()))
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.add_(sign * h * ways[key])
    slope = sum(float((p.grad * ways[k]).sum()) for k, p in parameters.items())
    difference = (values[1] - values[2]) / (2 * h)
    assert difference == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_ties_at_the_peak_share_the_change(way):
    weight = torch.tensor([[2.0, -2.0, 0.1], [0.1, 0.2, 0.3]], device=way.device)
    weight = torch.nn.Parameter(weight)
    term = square(0.01, 1.0, 4.0)
    groups = rows_of(2)
    penalty = GroupPenalty({"w": weight}, groups, term, backend=way.backend)
    weight.grad = torch.zeros_like(weight)
    penalty.add_gradient_()
    expected = term.gradient(weight.detach().cpu().double().numpy())
    np.testing.assert_allclose(weight.grad.cpu(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_have_statistics_in_float32(dtype, way):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 30).to(dtype).to(way.device))
    penalty = GroupPenalty({"w": weight}, rows_of(4), TERMS["square"], backend=way.backend)
    norm, peak = penalty.norms()
    assert norm.dtype == torch.float32
    exact = weight.detach().double().cpu()
    assert torch.allclose(norm.cpu().double(), exact.norm(dim=1), rtol=1e-6)
    penalty.prox_(0.3)
    expected = TERMS["square"].prox(exact.numpy(), 0.3)
    rounding = torch.finfo(dtype).eps
    np.testing.assert_allclose(weight.detach().double().cpu(), expected, rtol=rounding)
    assert peak.dtype == torch.float32


def test_a_tensor_in_two_groups_gets_both_factors_and_no_box(way):
    weight = torch.nn.Parameter(torch.randn(3, 5, dtype=torch.float64, device=way.device))
    along_both = (
        Member("w", 0, np.arange(3), "producer"),
        Member("w", 1, np.arange(3, 8), "producer"),
    )
    groups = Groups(8, along_both)
    before = weight.detach().clone()
    norm = torch.cat([before.norm(dim=1), before.norm(dim=0)])
    penalty = GroupPenalty({"w": weight}, groups, TERMS["square"], backend=way.backend)
    factor = penalty.term.prox_factor(norm, norm, 0.1)
    penalty.prox_(0.1)
    assert torch.allclose(weight, before * factor[:3, None] * factor[3:])
    with pytest.raises(InputError, match="along one axis"):
        GroupPenalty({"w": weight}, groups, TERMS["square in a box"], backend=way.backend)


def test_another_memory_format_is_noticed():
    network = build({"name": "resnet8", "shape": (1, 8, 8), "classes": 10})
    groups = find_groups(network, (1, 8, 8))
    penalty = GroupPenalty(network, groups, TERMS["square"])
    before = penalty.value()
    network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    assert float(penalty.value()) > 1.5 * float(before)


def test_explicit_steps_in_the_box_agree_to_first_order_and_wait_for_nothing(way):
    """Where asking is waiting, a group that the box decides takes w − t·∇h within the box."""
    torch.manual_seed(1)
    start = torch.randn(6, 8, dtype=torch.float64)
    term = square(0.05, 1.0, 3.0)
    errors = []
    for step in (1e-2, 1e-3):
        weight = torch.nn.Parameter(start.clone().to(way.device))
        penalty = GroupPenalty({"w": weight}, rows_of(6), term, backend=way.backend, may_wait=False)
        weight.grad = torch.zeros_like(weight)
        penalty.norms()  # the plan is made once
        with Refusing():
            penalty.prox_(step)
            penalty.add_gradient_()
            penalty.project_()
        exact = term.prox(start.numpy(), step)
        errors.append(np.abs(weight.detach().cpu().numpy() - exact).max())
        assert np.abs(start.numpy() - exact).max() > 20 * errors[-1]
        assert float(weight.detach().abs().max()) <= 3.0
    assert errors[1] < errors[0] / 50


@pytest.mark.parametrize("waits", [True, False])
def test_a_weight_that_is_not_a_number_is_not_hidden_by_the_box(way, waits):
    """Or a run that has diverged would go on."""
    for act in (lambda penalty: penalty.prox_(0.1), GroupPenalty.project_):
        weight = torch.nn.Parameter(torch.ones(3, 5, dtype=torch.float64, device=way.device))
        with torch.no_grad():
            weight[1, 2] = float("nan")
        term = square(0.05, 1.0, 3.0)
        act(GroupPenalty({"w": weight}, rows_of(3), term, backend=way.backend, may_wait=waits))
        assert torch.isnan(weight[1, 2])
        assert torch.isfinite(weight[[0, 2]]).all()


class Refusing(TorchDispatchMode):
    """Fails where a tensor is asked for its value."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function), "this waits for the device"
        return function(*args, **(kwargs or {}))


class Counting(TorchDispatchMode):
    """Counts operations."""

    def __enter__(self):
        self.count = 0
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # views cost nothing on the device
        self.count += not any(r.alias_info and not r.alias_info.is_write
                              for r in function._schema.returns)  # fmt: skip
        return function(*args, **(kwargs or {}))


def operations(tensors, size, groups, length=9):
    parameters = {f"w{i}": torch.nn.Parameter(torch.randn(size, length)) for i in range(tensors)}
    members = (Member(name, 0, np.arange(size) % groups, "producer") for name in parameters)
    penalty = GroupPenalty(parameters, Groups(groups, tuple(members)), square(0.3, 0.4, 50.0))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    counts = []
    for act in (penalty.add_gradient_, lambda: penalty.prox_(0.1), penalty.project_):
        act()  # the plan is made once
        with Counting() as counting:
            act()
        counts.append(counting.count)
    return counts


def test_operations_grow_neither_with_groups_nor_with_small_tensors():
    few = operations(tensors=3, size=40, groups=4)
    assert operations(tensors=3, size=40, groups=40) == few
    assert operations(tensors=60, size=40, groups=4) == few
    assert max(few) < 80


def test_a_large_tensor_costs_its_own_three_reductions():
    base, more = (operations(t, size=100, groups=4, length=700) for t in (2, 7))
    assert [b - a for a, b in zip(base, more, strict=True)] == [15, 15, 15]


def test_one_term_for_all_groups_is_that_of_each(way):
    weight = torch.nn.Parameter(torch.randn(4, 5, dtype=torch.float64, device=way.device))
    before = weight.detach().cpu().clone().numpy()
    one, each = square(0.05, 1.0, 3.0), square(np.full(4, 0.05), np.ones(4), np.full(4, 3.0))
    penalty = GroupPenalty({"w": weight}, rows_of(4), one, backend=way.backend, may_wait=True)
    np.testing.assert_allclose(penalty.keep_scores().clip(max=1), each.keep(before), rtol=1e-12)
    penalty.prox_(0.3)
    np.testing.assert_allclose(weight.detach().cpu(), each.prox(before, 0.3), atol=1e-12)
