"""Networks that a function in a user's file makes: ``FILE.py:FUNCTION``."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import mipprune
from formulations.errors import InputError
from mipprune.models.catalogue import options_of, unknown_options
from mipprune.models.registry import build, describe
from mipprune.runs import checkpoint
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import mask_groups, prune_groups

SHAPE = (3, 6, 6)
TEXT = """
import torch
from torch import nn

def make_net(shape, classes, width=8, hidden=None):
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, classes),
    )

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(108, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

def anything(**options):
    return make_net(options["shape"], options["classes"], options.get("breadth", 8))

def needy(shape, classes, depth):
    return make_net(shape, classes)

def failing():
    raise RuntimeError("not\\ntoday")

def number():
    return 3

def own_attribute():
    network = nn.Linear(2, 2)
    network.architecture = "mine"
    return network

once = make_net((3, 6, 6), 4)

def same():
    return once

model = make_net
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return path


def network_of(file, function="make_net", **options):
    torch.manual_seed(0)
    return build(f"{file}:{function}", shape=SHAPE, classes=4, **options).eval()


def pruned(network):
    groups = find_groups(network, SHAPE)
    return prune_groups(network, groups, np.arange(groups.count) % 3 > 0)


def test_a_function_is_called_with_what_its_signature_takes(file):
    assert options_of(f"{file}:make_net") == ("width", "hidden")
    assert network_of(file, width=5)[0].weight.shape == (5, 3, 3, 3)
    assert isinstance(network_of(file, "Net").fc, nn.Linear)
    assert network_of(file, "anything", breadth=6)[0].out_channels == 6
    assert unknown_options(f"{file}:make_net", ["width", "depth"]) == ["depth"]
    assert unknown_options(f"{file}:anything", ["width", "depth"]) == []
    assert network_of(f"{file}", "")[0].out_channels == 8


def test_a_pruned_one_is_rebuilt_from_plain_data(file):
    network = network_of(file, width=9)
    smaller = pruned(network)
    described = json.loads(json.dumps(describe(smaller)))
    assert described["name"] == f"{file}:make_net"
    assert described["width"] == 9
    assert described["shapes"]["0.weight"] == [6, 3, 3, 3]
    rebuilt = build(described).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt(images), smaller(images))
    groups = find_groups(network, SHAPE)
    mask_groups(network, groups, np.arange(groups.count) % 3 > 0)
    torch.testing.assert_close(smaller(images), network(images))


def test_random_numbers_do_not_depend_on_whether_the_file_has_been_run(tmp_path):
    path = tmp_path / "drawing.py"
    path.write_text(TEXT)
    first, second = network_of(path), network_of(path)
    assert torch.equal(first[0].weight, second[0].weight)


def test_a_network_that_is_returned_twice_is_not_shared(file):
    first, second = network_of(file, "same"), network_of(file, "same")
    assert torch.equal(first[0].weight, second[0].weight)
    assert first[0].weight is not second[0].weight


def test_a_path_is_recorded_in_full(file, monkeypatch, tmp_path):
    monkeypatch.chdir(file.parent)
    checkpoint.save(tmp_path / "net", network_of("mine.py"), data={})
    monkeypatch.chdir("/")
    loaded, _ = checkpoint.load(tmp_path / "net")
    assert describe(loaded)["name"] == f"{file}:make_net"


def test_a_file_that_has_moved_is_named_and_another_can_be_given(file, tmp_path):
    smaller = pruned(network_of(file))
    checkpoint.save(tmp_path / "net", smaller, data={})
    moved = file.rename(tmp_path / "moved.py")
    text = moved.read_text() + "# another content, which this process has not run\n"
    checkpoint.save(tmp_path / "again", pruned(network_of(moved)), data={})
    description = json.loads((tmp_path / "net/model.json").read_text())
    architecture = {**description["architecture"], "sha256": "0" * 64}
    with pytest.raises(InputError, match=rf"{file}.* is not there: put it back, or say") as caught:
        build(architecture)
    assert "model=FILE.py:make_net" in str(caught.value)
    assert "\n" not in str(caught.value)
    moved.write_text(text)
    loaded, _ = checkpoint.load(tmp_path / "net", f"{moved}:make_net")
    images = torch.randn(2, *SHAPE)
    assert torch.equal(loaded.eval()(images), smaller(images))
    assert describe(loaded)["name"] == f"{moved}:make_net"


def test_a_file_that_has_changed_is_said_once(file, tmp_path, capsys):
    smaller = pruned(network_of(file))
    checkpoint.save(tmp_path / "net", smaller, data={})
    was = describe(smaller)
    described = {**was, "sha256": "1" * 64}
    for _ in range(2):
        again = build(described)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"mipprune: {file} is not what it was")
    assert describe(again) == was
    build(was)
    assert capsys.readouterr().err == ""
    shapes = {**was["shapes"], "9.weight": [3]}
    with pytest.raises(InputError, match=r"shapes are not those of .*mine\.py.*: see 9\.weight"):
        build({**described, "sha256": "2" * 64, "shapes": shapes})
    assert "is not what it was" in capsys.readouterr().err


def test_within_a_process_a_network_is_made_by_the_file_as_it_was(file):
    network = network_of(file)
    file.write_text("def make_net():\n    return None\n")
    assert pruned(network)[0].out_channels < 8
    file.unlink()
    assert pruned(network)[0].out_channels < 8


def test_names_of_other_models_are_passed_over_and_other_checkpoints_refused(file, tmp_path):
    own = build("mlp", shape=(1, 2, 2), classes=2)
    checkpoint.save(tmp_path / "net", own, data={})
    assert type(checkpoint.load(tmp_path / "net", "resnet8")[0]) is type(own)
    with pytest.raises(InputError, match=r"it is a mlp, and model=.*mine\.py:make_net is another"):
        checkpoint.load(tmp_path / "net", f"{file}:make_net")


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("absent", {}, r"has no function 'absent': it has make_net, Net, anything"),
        ("torch", {}, "has no function 'torch'"),
        ("once", {}, "once of .* is a network: put it into a function"),
        ("make_net", {"depth": 3}, "has no option depth: it takes width, hidden"),
        ("needy", {}, r"needs depth: give model\.depth=VALUE"),
        ("failing", {}, r"failing fails: RuntimeError: not today \(line \d+\)"),
        ("number", {}, "returns a int, not a torch"),
        ("own_attribute", {}, "attribute `architecture`"),
        ("make_net", {"hidden": nn.ReLU}, "a checkpoint records plain values alone"),
        ("make_net", {"shapes": {"fc.bias": [4]}}, "recorded shapes are not those of"),
    ],
)
def test_what_a_file_does_not_give_is_said_in_one_line(file, function, options, message):
    with pytest.raises(InputError, match=message) as caught:
        network_of(file, function, **options)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_shape_are_said(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*absent\.py"):
        network_of(tmp_path / "absent.py")
    with pytest.raises(InputError, match="give classes="):
        build("resnet8", shape=SHAPE)


def test_a_variable_is_pruned_in_memory_and_no_checkpoint(file, tmp_path):
    network = network_of(file)
    del vars(network)["architecture"]
    images = torch.randn(32, *SHAPE)
    result = mipprune.prune(network, images, budget={"macs": 0.6}, jobs=1, parallel="threads")
    assert mipprune.certify(result, images, jobs=1, parallel="threads")
    with pytest.raises(InputError, match=r"into a function of a file .*model=FILE\.py:FUNCTION"):
        checkpoint.save(tmp_path / "net", result.network, data={})
    for model in (network, type(network), network_of):
        with pytest.raises(InputError, match=r"is a variable.*model=FILE\.py:FUNCTION") as caught:
            mipprune.train({"model": model}, runs=str(tmp_path))
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def test_a_tensor_of_two_names_is_written_twice(tmp_path):
    path = tmp_path / "tied.py"
    path.write_text(
        "from torch import nn\ndef model():\n    first, second = nn.Linear(4, 4), nn.Linear(4, 4)\n"
        "    second.weight = first.weight\n    return nn.Sequential(nn.Flatten(), first, second)\n"
    )
    network = build(str(path), shape=(1, 2, 2), classes=4)
    checkpoint.save(tmp_path / "net", network, data={})
    loaded, _ = checkpoint.load(tmp_path / "net")
    images = torch.randn(2, 1, 2, 2)
    assert torch.equal(loaded(images), network(images))
    assert loaded[1].weight is loaded[2].weight
