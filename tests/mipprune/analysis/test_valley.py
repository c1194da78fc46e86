"""Paths, barriers and Hessians against toy losses and dense algebra; the command on digits."""

import json
import math

import numpy as np
import pytest
import torch
from command import refused, run
from torch.func import functional_call
from torch.nn import functional as F
from typer.testing import CliRunner

from formulations.errors import InputError
from mipprune.analysis.landscape import (
    barrier,
    bezier,
    hessian_product,
    line,
    shares,
    top_eigenpairs,
    train_curve,
)
from mipprune.analysis.valley import valley
from mipprune.cli import app
from mipprune.config.overrides import configure
from mipprune.config.valley import ValleyConfig
from mipprune.models.registry import build
from mipprune.runs import checkpoint

QUICK = ["points=3", "images=64", "epochs=1", "eigenvectors=2"]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def ring(theta):
    """Low on the unit circle alone."""
    return (theta @ theta - 1) ** 2


def test_a_trained_curve_follows_the_arc_that_the_line_cuts():
    a, b = vector(1, 0), vector(0, 1)
    generator = torch.Generator().manual_seed(0)
    control = train_curve(ring, a, b, steps=800, lr=0.1, generator=generator)
    # the best control point is (c, c) by symmetry: found on a grid, with t by the midpoint rule
    t = (np.arange(2000) + 0.5) / 2000
    grid = np.linspace(0.5, 1.5, 1001)[:, None]
    x, y = (end**2 + 2 * t * (1 - t) * grid for end in (1 - t, t))
    best = grid[((x**2 + y**2 - 1) ** 2).mean(1).argmin(), 0]
    assert control.numpy() == pytest.approx([best, best], abs=0.01)
    heights = [
        barrier(t, [float(ring(path(value))) for value in t], 2).height
        for path in (lambda t: line(a, b, t), lambda t: bezier(a, b, control, t))
    ]
    assert heights[0] == pytest.approx(0.25, abs=1e-3)
    assert heights[1] < 0.01


def test_a_curve_whose_control_point_is_the_midpoint_is_the_line():
    a, b = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 0.3, 1.0):
        torch.testing.assert_close(bezier(a, b, (a + b) / 2, t), line(a, b, t))
    assert torch.equal(line(a, b, 0.0), a)
    assert torch.equal(line(a, b, 1.0), b)


def test_a_barrier_is_the_height_above_the_larger_end():
    t = [0.0, 0.5, 1.0]
    found = barrier(t, [0.1, 1.2, 0.4], 10)
    assert found.height == pytest.approx(0.8)
    assert found.share == pytest.approx(0.8 / (math.log(10) - 0.1))
    assert found.at == 0.5
    below = barrier(t, [0.1, 0.3, 0.4], 10)
    assert (below.height, below.share, below.at) == (0, 0, None)
    assert barrier(t, [3.0, 4.0, 3.5], 10).share is None


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "mlp", "shape": [1, 4, 4], "classes": 3, "hidden": [6]},
        {"name": "resnet8", "shape": [1, 4, 4], "classes": 3, "width": 1},
    ],
    ids=["mlp", "resnet8"],
)
def test_lanczos_on_hessian_products_finds_the_dense_hessians_eigenpairs(architecture):
    torch.manual_seed(0)
    network = build(architecture).double()
    images = torch.randn(24, *architecture["shape"], dtype=torch.float64)
    labels = torch.randint(0, 3, (24,))
    for _ in range(20):
        network(images)  # running statistics of their own
    network.eval()
    shapes = {name: p.shape for name, p in network.named_parameters()}
    at = torch.nn.utils.parameters_to_vector(network.parameters()).detach()

    def loss(theta, part=slice(None), share=1.0):
        pieces = theta.split([s.numel() for s in shapes.values()])
        named = {n: p.view(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
        logits = functional_call(network, named, (images[part],))
        return share * F.cross_entropy(logits, labels[part])

    dense = torch.autograd.functional.hessian(loss, at).numpy()
    parts = [
        lambda theta: loss(theta, slice(0, 16), 16 / 24),
        lambda theta: loss(theta, slice(16, 24), 8 / 24),
    ]
    product = hessian_product(parts, at)
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(len(at))
    np.testing.assert_allclose(product(direction), dense @ direction, atol=1e-10)
    pairs = top_eigenpairs(product, len(at), 4, rng, tolerance=1e-10)
    values, vectors = np.linalg.eigh(dense)
    np.testing.assert_allclose(pairs.values, values[::-1][:4], rtol=1e-8)
    overlaps = np.abs(np.sum(pairs.vectors * vectors[:, ::-1][:, :4], axis=0))
    np.testing.assert_allclose(overlaps, 1, atol=1e-6)
    assert pairs.residual < 1e-6


def test_shares_are_those_of_the_projection():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((50, 4)))[0]
    delta = rng.standard_normal(50)
    projected = basis @ np.linalg.lstsq(basis, delta, rcond=None)[0]
    assert shares(basis, delta).sum() == pytest.approx((projected @ projected) / (delta @ delta))
    assert shares(basis, basis[:, 2]) == pytest.approx([0, 0, 1, 0], abs=1e-12)
    many = [shares(basis, rng.standard_normal(50)).sum() for _ in range(2000)]
    assert np.mean(many) == pytest.approx(4 / 50, rel=0.05)


def save(folder, seed, data="digits", **options):
    torch.manual_seed(seed)
    given = {"name": "resnet8", "shape": [1, 8, 8], "classes": 10, "width": 4, **options}
    network = build(given)
    checkpoint.save(folder, network, data={"name": data, "path": None} if data else None)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of two checkpoints, and with others that do not fit."""
    folder = tmp_path_factory.mktemp("valley")
    for name, seed in (("run/regularized", 0), ("run/dense", 1)):
        save(folder / name, seed)
    save(folder / "wider", 1, width=8)
    save(folder / "other", 1, name="resnet14")
    save(folder / "nameless", 2, data=None)
    save(folder / "three", 2, classes=3)
    (folder / "empty").mkdir()
    return folder


def test_the_command_writes_what_it_measured(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["valley", "run", "run/dense", *QUICK, "--json", "v.json", "--plot", "v.png"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "v.json").read_text())
    assert found["a"].endswith("regularized")
    assert found["line"]["t"] == found["curve"]["t"] == [0, 0.5, 1]
    for end in (0, -1):  # both paths have the same ends, measured in the same way
        for key in ("loss", "accuracy", "test_accuracy"):
            assert found["line"][key][end] == pytest.approx(found["curve"][key][end], abs=1e-4)
    # in another precision and in other batches the Hessian is the same
    again = valley(
        folder / "run",
        folder / "run/dense",
        configure(ValleyConfig, {}, [*QUICK, "precision=float64", "batch=32"]),
    )
    for key in ("eigenvalues", "shares"):
        assert found["hessian"][key] == pytest.approx(again["hessian"][key], rel=1e-2)
    assert "log(classes)" in result.stdout.replace("\n", " ")
    assert f"{found['line']['barrier']['height']:.5f}" in result.stdout
    assert (folder / "v.png").read_bytes().startswith(b"\x89PNG")


def test_the_ends_do_not_depend_on_the_running_statistics_that_were_saved(folder):
    config = configure(ValleyConfig, {}, QUICK)
    before = valley(folder / "run", folder / "run/dense", config)
    network, data = checkpoint.load(folder / "run/regularized")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(9.0)
            module.running_mean.fill_(1.0)
    checkpoint.save(folder / "shifted/dense", network, data=data)
    after = valley(folder / "shifted", folder / "run/dense", config)
    assert after["a"].endswith("shifted/dense")  # a run without regularized/
    assert after["line"] == before["line"]
    assert after["own"]["a"]["loss"] != pytest.approx(before["own"]["a"]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run/dense", "wider"], ["differ in", "conv1", "regularized/"]),
        (["run/dense", "other"], ["resnet8", "resnet14", "same model"]),
        (["run/dense", "run/dense"], ["same weights"]),
        (["run/dense", "empty"], ["no checkpoint at", "empty"]),
        (["run/dense", "nowhere"], ["no run or checkpoint", "nowhere"]),
        (["run/dense", "nameless"], ["no common data set", "data="]),
        (["run", "run/dense", "data=numbers"], ["unknown data set", "'numbers'"]),
        (["three", "three"], ["does not fit data=digits"]),
        (["run", "run/dense", "batch=5000"], ["batch=5000", "1347"]),
        (["run", "run/dense", "eigenvectors=99999"], ["eigenvectors=99999"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_compared_is_refused(folder, words, expected):
    a, b, *overrides = words
    with pytest.raises(InputError) as error:
        valley(folder / a, folder / b, configure(ValleyConfig, {}, overrides))
    for word in expected:
        assert word in str(error.value)


def test_a_curve_that_diverges_is_an_error_that_names_the_learning_rate(folder):
    config = configure(ValleyConfig, {}, [*QUICK, "lr=1e30"])
    with pytest.raises(InputError, match=r"diverged.*lr=1e"):
        valley(folder / "run", folder / "run/dense", config)


def test_networks_of_other_shapes_are_one_line_and_exit_code_2(folder):
    refused(run("valley", "run", "wider", cwd=folder), "differ in")


def test_help_has_an_example():
    result = CliRunner().invoke(app, ["valley", "--help"])
    assert "mipprune valley" in result.output.partition("Example")[2]
