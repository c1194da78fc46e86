"""What only a GPU can show: captured passes, the fused optimizer, a search behind a graph."""

import json

import pytest
import torch
from image_files import make_folder

from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.distributed.ranks import Ranks
from mipprune.models.registry import build
from mipprune.runs import checkpoint
from mipprune.training.backward import Captured, Passes
from mipprune.training.run import Hooks, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU: the tests of the CPU path stand for it"
    ),
]

SMALL = [
    "model.name=resnet8", "model.width=8", "data.batch=128", "recalibrate=128", "reference=false",
    "pretrain.epochs=1", "regularize.epochs=2", "finetune.epochs=2", "checkpoint_steps=4",
    "budget.macs=0.5",
]  # fmt: skip


def config(folder, name, *more):
    given = [*SMALL, f"runs={folder}", f"name={name}", *more]
    return configure(Config, read_recipe("digits-spr"), given)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_captured_pass_is_the_eager_one(precision, accumulate):
    """Gradients, loss and BatchNorm statistics, with other images and weights at every step."""
    torch.manual_seed(0)
    ours = build({"name": "resnet8", "width": 8, "shape": (3, 16, 16), "classes": 10}).cuda()
    ours = ours.to(memory_format=torch.channels_last)
    other = build({"name": "resnet8", "width": 8, "shape": (3, 16, 16), "classes": 10}).cuda()
    other = other.to(memory_format=torch.channels_last)
    other.load_state_dict(ours.state_dict())
    options = {"accumulate": accumulate, "precision": precision}
    captured = Passes(Ranks(), **options).of(ours)
    eager = Passes(Ranks(), **options, graph=False).of(other)
    assert isinstance(captured, Captured)
    for step in range(4):
        images = torch.randn(32, 3, 16, 16, device="cuda")
        labels = torch.randint(10, (32,), device="cuda")
        loss = captured(images, labels)
        torch.testing.assert_close(loss, eager(images, labels), rtol=1e-3, atol=1e-3)
        for a, b in zip(ours.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=0.05, atol=2e-2)
            with torch.no_grad():
                b.sub_(0.1 * b.grad)
                a.copy_(b)
        for a, b in zip(ours.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
        if step == 1:
            ours.zero_grad(set_to_none=True)  # the graph's gradients come back


def moment(place):
    return place.phase, place.epoch, place.step


def test_a_run_through_all_phases_goes_on_where_it_was_cut(tmp_path):
    """With momentum that was saved, and with momentum that removal has cut to size."""

    def die(run):
        if moment(run.place) in (("regularize", 1, 8), ("finetune", 1, 4)):
            raise InterruptedError

    hooks = Hooks(after_save=die)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            train(config(tmp_path, "cut"), resume=(tmp_path / "cut").exists(), hooks=hooks)
    result = train(config(tmp_path, "cut"), resume=True)
    assert result["kept"]["macs"] <= 0.5
    lines = [json.loads(line) for line in (tmp_path / "cut/metrics.jsonl").open()]
    assert [line["phase"] for line in lines].count("resume") == 2


def test_a_number_that_is_not_finite_is_traced_behind_a_graph(tmp_path):
    def poison(place, subject):
        if moment(place) == ("regularize", 0, 3):
            with torch.no_grad():
                subject.network.get_submodule("layer2.0.conv1").weight[0, 0] = float("nan")

    given = config(tmp_path, "nan", "checkpoint_steps=0")
    with pytest.raises(RuntimeError, match=r"step 3 of epoch 1 .*the weights of layer2.0.conv1"):
        train(given, hooks=Hooks(after_step=poison))
    network, *_ = checkpoint.load_generation(tmp_path / "nan/last")
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_a_pass_is_captured_while_workers_hand_over_pinned_memory(tmp_path):
    words = ["data=images", f"data.path={make_folder(tmp_path / 'images')}", "data.size=32"]
    words += ["data.batch=8", "data.workers=2", "model.name=resnet18", "model.width=8"]
    words += ["budget.multiple=1", "precision=bfloat16", "recalibrate=16", "pretrain.epochs=0"]
    recipe = read_recipe("imagenet-resnet18-spr")
    small = [w for w in SMALL if not w.startswith(("model", "data", "recal", "pre"))]
    train(configure(Config, recipe, [*small, *words, f"runs={tmp_path}", "name=run"]))
