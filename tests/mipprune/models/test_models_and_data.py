"""Models by name, published weights, data sets."""

import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from data_checks import check_epochs, check_examples, check_test_images
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from formulations.errors import InputError
from mipprune.data.registry import load
from mipprune.data.sources import load_source
from mipprune.measures.network import accuracy
from mipprune.models.registry import build
from mipprune.models.weights import load_weights

SHARED = Path(os.environ.get("MIPPRUNE_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (SHARED / "cifar10").is_dir(), reason="no CIFAR-10 beside the project (MIPPRUNE_DATA)"
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """The first thousand images of each split, in a file of their own."""
    folder = tmp_path_factory.mktemp("cifar10")
    for split, images in (("train", 50_000), ("test", 10_000)):
        paths = sorted((SHARED / "cifar10").glob(f"{split}-*.parquet"))
        files = [parquet.ParquetFile(path) for path in paths]
        assert sum(file.metadata.num_rows for file in files) == images
        first = pyarrow.Table.from_batches([next(files[0].iter_batches(1000))])
        parquet.write_table(first, folder / f"{split}-00000-of-00001.parquet")
    data = load("cifar10", str(folder), CPU)
    assert (data.train_size, data.test_size) == (1000, 1000)
    return data


@needs_data
@pytest.mark.parametrize(("depth", "right"), [(20, 911), (56, 919)])
def test_published_weights_classify_as_published(depth, right, cifar10):
    """Of the first thousand images; of all they are right about 91.73 % and 93.39 %."""
    network = build(
        {"name": f"resnet{depth}", "shape": cifar10.shape, "classes": 10, "shortcut": "A"}
    )
    load_weights(network, SHARED / "pretrained" / f"resnet{depth}-cifar10.safetensors")
    # a logit may be rounded otherwise: one image more or less
    assert accuracy(network, cifar10) == pytest.approx(right / 10, abs=0.11)


def torchvision_tensors(depth):
    """Names and shapes of torchvision's resnet files, from its documentation and source."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    expansion = 4 if depth == 50 else 1
    found = {}

    def conv(name, outputs, inputs, side):
        found[f"{name}.weight"] = (outputs, inputs, side, side)

    def norm(name, channels):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{tensor}"] = (channels,)
        found[f"{name}.num_batches_tracked"] = ()

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, count in enumerate(blocks, start=1):
        plain = 64 * 2 ** (stage - 1)
        for block in range(count):
            name, outputs = f"layer{stage}.{block}", plain * expansion
            sides = (1, 3, 1) if depth == 50 else (3, 3)
            widths = [inputs, *[plain] * (len(sides) - 1), outputs]
            for number, side in enumerate(sides, start=1):
                conv(f"{name}.conv{number}", widths[number], widths[number - 1], side)
                norm(f"{name}.bn{number}", widths[number])
            if inputs != outputs:
                conv(f"{name}.downsample.0", outputs, inputs, 1)
                norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    found["fc.weight"], found["fc.bias"] = (1000, inputs), (1000,)
    return found


@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)]
)
def test_imagenet_networks_have_torchvisions_tensors(depth, parameters):
    """The numbers of parameters are those that torchvision's documentation lists."""
    expected = torchvision_tensors(depth)
    with torch.device("meta"):
        network = build({"name": f"resnet{depth}", "shape": (3, 224, 224), "classes": 1000})
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == expected
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("form", ["safetensors", "pth", "old pth"])
def test_torchvisions_files_are_read(form, tmp_path):
    """Its oldest files are of torch's first format, hold parameters and count no batches."""
    generator = torch.Generator().manual_seed(0)
    tensors = {k: torch.rand(v, generator=generator) for k, v in torchvision_tensors(18).items()}
    tensors = {k: v.long() if k.endswith("tracked") else v for k, v in tensors.items()}
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "pth":
        torch.save(tensors, path)
    else:
        tensors = {k: v for k, v in tensors.items() if not k.endswith("tracked")}
        old = {k: torch.nn.Parameter(v) if v.dim() > 1 else v for k, v in tensors.items()}
        torch.save(old, path, _use_new_zipfile_serialization=False)
    network = build({"name": "resnet18", "shape": (3, 224, 224), "classes": 1000})
    load_weights(network, path)
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no state dictionary"),
        ({"model": {"a": torch.zeros(1)}}, "no state dictionary"),
        ({"path": Path("x")}, "not a readable file of weights alone"),
        ({"fc.weight": torch.zeros(10, 512)}, r"missing .*of another shape \(fc\.weight"),
    ],
)
def test_other_pickles_are_one_line(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with torch.device("meta"):
        network = build({"name": "resnet18", "shape": (3, 224, 224), "classes": 1000})
    with pytest.raises(InputError, match=message) as caught:
        load_weights(network, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_listed_and_leave_the_network_alone(tmp_path):
    network = build({"name": "mlp", "shape": (1, 2, 2), "classes": 2, "hidden": [3]})
    before = {k: v.clone() for k, v in network.state_dict().items()}
    tensors = {k: v + 1 for k, v in before.items()}
    tensors["extra"] = torch.zeros(1)
    tensors["layers.0.weight"] = torch.zeros(5, 4)
    del tensors["layers.1.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        load_weights(network, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "1 missing (layers.1.bias)" in message
    assert "1 unexpected (extra)" in message
    assert "layers.0.weight (5, 4) for (3, 4)" in message
    assert "\n" not in message
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_unreadable_weights_are_one_line(tmp_path, content, ending):
    path = tmp_path / f"w.{ending}"
    if content is not None:
        path.write_bytes(content)
    network = build({"name": "mlp", "shape": (1, 2, 2), "classes": 2})
    with pytest.raises(InputError, match=rf"w\.{ending}"):
        load_weights(network, path)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"name": "resnet9"}, "unknown model 'resnet9'"),
        ({"name": "mlp", "shortcut": "A"}, "mlp has no option shortcut"),
        ({"name": "resnet8", "shortcut": "C"}, "shortcut must be A"),
        ({"name": "resnet8", "widths": {"layer1.0.conv2": 3}}, "adds 3 channels to 16"),
    ],
)
def test_architectures_that_cannot_be_are_refused(architecture, message):
    with pytest.raises(InputError, match=message):
        build({"shape": (1, 8, 8), "classes": 10, **architecture})


def test_digits_split_is_fixed_and_stratified():
    data, again = load("digits", None, CPU), load("digits", None, CPU)
    assert (data.train_size, data.test_size, data.classes) == (1347, 450, 10)
    assert data.shape == (1, 8, 8)
    assert torch.equal(data.test.images, again.test.images)
    counts = torch.bincount(data.test.labels)
    assert counts.min() >= 43
    assert counts.max() <= 47
    assert abs(float(data.normalise(data.train.images).mean())) < 1e-5


def test_who_changes_the_images_of_digits_changes_those_of_no_other():
    load_source("digits", None).train[0].zero_()
    assert load_source("digits", None).train[0].any()


def test_batches_follow_from_seed_and_epoch_alone_and_cover_the_images_once():
    data = load("digits", None, CPU)

    first, same, other = (list(data.train_batches(100, *key)) for key in ((0, 0), (0, 0), (0, 1)))
    assert len(first) == data.steps(100) == 13
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, same, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    counted = sum(torch.bincount(labels, minlength=10) for _, labels in first)
    assert int(counted.sum()) == 1300


def test_augmentation_is_a_crop_of_the_padded_image_perhaps_flipped():
    data = load("digits", None, CPU)
    data._flip = True
    images = data.train.images[:200]
    drawn = data._draw(1, len(images), slice(None), torch.Generator().manual_seed(0))
    augmented = data._augment(images, drawn, 0)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    flips = 0
    for image, whole in zip(augmented, padded, strict=True):
        crops = [whole[:, r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
        plain = any(torch.equal(image, crop) for crop in crops)
        flipped = any(torch.equal(image, crop.flip(2)) for crop in crops)
        assert plain or flipped
        flips += flipped and not plain
    assert 60 < flips < 140


def write_parquet(folder, split, count, classes=10):
    import datasets

    rng = np.random.default_rng(count)
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=classes)}
    )
    images = rng.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, count)
    table = datasets.Dataset.from_dict({"img": list(images), "label": labels}, features=features)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return images, labels


def test_parquet_files_are_read_without_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    images, labels = write_parquet(tmp_path, "train", 7)
    write_parquet(tmp_path, "test", 3)
    data = load("cifar10", str(tmp_path), CPU)
    np.testing.assert_array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), images)
    np.testing.assert_array_equal(data.train.labels.numpy(), labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_folder_without_the_data_is_named(tmp_path, name):
    with pytest.raises(InputError, match=r"no train-\*\.parquet"):
        load(name, str(tmp_path), CPU)


def test_pretrained_file_keeps_its_keys():
    path = SHARED / "pretrained" / "resnet20-cifar10.safetensors"
    if not path.exists():
        pytest.skip("no pretrained weights beside the project (MIPPRUNE_DATA)")
    own = build({"name": "resnet20", "shape": (3, 32, 32), "classes": 10, "shortcut": "A"})
    expected = {k for k in own.state_dict() if not k.endswith("num_batches_tracked")}
    assert expected == set(load_file(path)) - {"num_batches_tracked"}


def test_an_epoch_is_the_same_stream_of_draws_as_ever():
    """Order, then for every batch flips and offsets, from one generator: recorded results rely."""
    data = load("digits", None, CPU)
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 2)
    order = torch.randperm(1347, generator=generator)
    padded = data.normalise(torch.nn.functional.pad(data.train.images, (1, 1, 1, 1)))
    for step, (images, labels) in enumerate(data.train_batches(500, 3, 2)):
        index = order[step * 500 : (step + 1) * 500]
        offsets = torch.randint(0, 3, (2, 500, 1), generator=generator)[..., 0].T.tolist()
        places = zip(index, offsets, strict=True)
        wanted = [padded[i, :, r : r + 8, c : c + 8] for i, (r, c) in places]
        assert torch.equal(images, torch.stack(wanted))
        assert torch.equal(labels, data.train.labels[index])


def test_data_in_memory_do_what_data_must():
    data = load("digits", None, CPU)
    check_epochs(data, 300)
    check_test_images(data, 200)
    check_examples(data)
    with pytest.raises(InputError, match=r"data\.batch=100 cannot be shared evenly by 3"):
        next(data.train_batches(100, 0, 0, world=3))
