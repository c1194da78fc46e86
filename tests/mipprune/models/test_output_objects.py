"""Networks whose output is not a tensor: their logits are trained, measured and exported."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tasks import method_of
from torch import nn
from torch.nn import functional as F

import mipprune
from formulations.errors import InputError
from mipprune.distributed.ranks import Ranks
from mipprune.measures.network import predict
from mipprune.models.references.outputs import auxiliary_of, logits_of
from mipprune.models.registry import build
from mipprune.training.backward import Passes

LOGITS, OTHER = torch.eye(3), torch.ones(3, 3)
GoogLeNetOutputs = namedtuple("GoogLeNetOutputs", ("logits", "aux_logits2", "aux_logits1"))
InceptionOutputs = namedtuple("InceptionOutputs", ("logits", "aux_logits"))


class ModelOutput(OrderedDict):
    """As transformers' are: a mapping whose values are attributes too."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, OTHER),
        [LOGITS],
        {"logits": LOGITS, "hidden": OTHER},
        SimpleNamespace(logits=LOGITS),
        GoogLeNetOutputs(LOGITS, None, None),
        ModelOutput(logits=LOGITS, hidden_states=None),
    ],
)
def test_logits_are_found(output):
    assert logits_of(output) is LOGITS
    assert auxiliary_of(output) == []


@pytest.mark.parametrize("output", [None, (), {"hidden": LOGITS}, SimpleNamespace(last=LOGITS), 3])
def test_an_output_without_logits_is_one_line(output):
    with pytest.raises(InputError, match="a tensor of logits is needed"):
        logits_of(output)


TEXT = """
from collections import namedtuple
from torch import nn
import torch

Outputs = namedtuple("Outputs", ("logits", "aux_logits"))

class Net(nn.Module):
    def __init__(self, shape, classes, aux=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(shape[0], 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.ReLU())
        self.fc = nn.Linear(24, classes)
        self.aux = aux

    def forward(self, x):
        logits = self.fc(self.body(self.stem(x)).mean((2, 3)))
        if self.aux and self.training:
            return Outputs(logits, 2 * logits)
        return logits if self.aux else {"logits": logits}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("output", "weights"),
    [
        (lambda x: InceptionOutputs(x, 2 * x), (1, 0.4)),
        (lambda x: GoogLeNetOutputs(x, 2 * x, 2 * x), (1, 0.3 + 0.3)),
        (lambda x: GoogLeNetOutputs(x, None, None), (1, 0)),
        (lambda x: ModelOutput(logits=x, loss=None), (1, 0)),
    ],
)
def test_auxiliary_classifiers_count_in_training(output, weights):
    class Net(nn.Linear):
        def forward(self, x):
            return output(super().forward(x))

    network, images = Net(4, 3), torch.randn(5, 4)
    labels = torch.tensor([0, 1, 2, 0, 1])
    loss = Passes(Ranks()).of(network)(images, labels)
    logits = nn.Linear.forward(network, images)
    main, auxiliary = (F.cross_entropy(factor * logits, labels) for factor in (1, 2))
    torch.testing.assert_close(loss, weights[0] * main + weights[1] * auxiliary)


@pytest.mark.parametrize("aux", [False, True])
def test_a_run_trains_measures_prunes_and_exports_the_logits(file, tmp_path, aux):
    result = mipprune.train(
        {"method": {"name": "taylor"}},
        model={"name": f"{file}:Net", "aux": aux},
        name="run",
        runs=str(tmp_path),
        budget={"macs": 0.6},
        regularize={"epochs": 1},
        finetune={"epochs": 1},
    )
    assert result["pruned"]["macs"] < result["dense"]["macs"]
    measured = mipprune.evaluate_checkpoint(tmp_path / "run", device="cpu")
    assert measured["accuracy"] == result["pruned"]["accuracy"]
    exported = mipprune.export(tmp_path / "run", None, {"program": tmp_path / "net.pt2"}, images=32)
    assert exported["parity"][0]["agreement"] == 1


def test_pruning_without_training_sees_the_logits(file):
    network = build(f"{file}:Net", shape=(1, 8, 8), classes=4)
    images = torch.randn(48, 1, 8, 8)
    result = mipprune.prune(network, images, budget={"macs": 0.6}, jobs=1, parallel="threads")
    assert result.macs.share <= 0.6


def test_scores_of_gradients_see_the_logits(file):
    network = build(f"{file}:Net", shape=(1, 8, 8), classes=10)
    scores = method_of("taylor", network, budget={"macs": 0.5}).scores()
    assert np.isfinite(scores).all()


def test_the_class_of_an_output_object_is_that_of_its_logits(file):
    network = build(f"{file}:Net", shape=(1, 8, 8), classes=4).eval()
    images = torch.randn(5, 1, 8, 8)
    assert torch.equal(predict(network, images), network(images)["logits"].argmax(1))
