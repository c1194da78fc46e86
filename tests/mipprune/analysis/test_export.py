"""Exported networks: the files compute what the checkpoint does, at any batch size."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks import small_network
from torch import nn

from formulations.errors import InputError
from mipprune import cli
from mipprune.analysis.export import Exported, compare_outputs, export, trace
from mipprune.config.export import ExportConfig
from mipprune.data.registry import load
from mipprune.runs import checkpoint
from mipprune.structure.groups import find_groups
from mipprune.structure.removal import prune_groups, recalibrate

DOCS = Path(__file__).parents[3] / "docs/export.md"
DIGITS = load("digits", None, torch.device("cpu"))
BATCHES = (1, 2, 7, 64, 450)


def pruned_network(**options):
    """A network from which a residual branch and the first of several channels are removed, so
    that a zero-padding shortcut pads unevenly."""
    network = small_network(**options)
    recalibrate(network, DIGITS.sample(256).split(64))
    groups = find_groups(network, DIGITS.shape)
    kept = np.ones(groups.count, bool)
    kept[groups.layers["layer3.0.conv2"][:3]] = False
    kept[groups.layers["layer1.0.conv1"]] = False
    smaller = prune_groups(network, groups, kept)
    return network.eval(), smaller.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run's two networks, exported in both formats: the folder and what the command printed."""
    pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'mipprune[export]'")
    folder = tmp_path_factory.mktemp("export")
    for name, network in zip(("dense", "pruned"), pruned_network(shortcut="A"), strict=True):
        checkpoint.save(folder / "run" / name, network, data={"name": "digits", "path": None})
    targets = {"onnx": folder / "model.onnx", "program": folder / "model.pt2"}
    config = ExportConfig(images=450, threads=1)
    return folder, export(folder / "run", config, targets)


def logits(folder, images):
    network, _ = checkpoint.load(folder / "run/pruned")
    with torch.no_grad():
        return network.eval()(images)


def test_onnx_runtime_computes_the_pruned_network_on_real_images(exported):
    import onnxruntime

    folder, _ = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["data"] == "digits"
    # images as the file itself says that they are normalised
    mean, std = (np.array(json.loads(properties[key]), np.float32) for key in ("mean", "std"))
    for batch in BATCHES:
        raw = DIGITS.test.images[:batch].numpy().astype(np.float32) / 255
        images = (raw - mean[:, None, None]) / std[:, None, None]
        (found,) = session.run(None, {"images": images})
        expected = logits(folder, torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_what_the_docs_show_reads_the_file(exported, tmp_path, monkeypatch):
    folder, _ = exported
    (tmp_path / "half.onnx").write_bytes((folder / "model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    blank = DIGITS.normalise(torch.zeros(5, *DIGITS.shape, dtype=torch.uint8))
    np.testing.assert_allclose(names["logits"], logits(folder, blank).numpy(), rtol=1e-4, atol=1e-4)


def test_the_torch_program_computes_the_pruned_network_on_real_images(exported):
    folder, _ = exported
    module = torch.export.load(folder / "model.pt2").module()
    for batch in BATCHES:
        images = DIGITS.normalise(DIGITS.test.images[:batch])
        torch.testing.assert_close(module(images), logits(folder, images))


def test_the_file_holds_the_pruned_widths(exported):
    import onnx

    folder, _ = exported
    network, _ = checkpoint.load(folder / "run/pruned")
    assert not network.layer1[0].branch
    shortcut = network.layer3[0].shortcut
    assert shortcut.low != shortcut.high
    model = onnx.load(folder / "model.onnx")
    filters = sorted(t.dims[0] for t in model.graph.initializer if len(t.dims) == 4)
    own = sorted(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    assert filters == own


def test_parity_and_latency_of_both_networks_are_told(exported):
    folder, found = exported
    for row, path in zip(found["parity"], ("model.onnx", "model.pt2"), strict=True):
        assert row["file"] == str(folder / path)
        assert row["bytes"] == (folder / path).stat().st_size
        assert row["images"] == 450
        assert row["difference"] <= 10 * row["rounding"] < 1e-4 * row["largest"]
        assert row["agreement"] == 1
    rows = found["latency"]["rows"]
    assert {(r["runtime"], r["network"], r["batch"]) for r in rows} == {
        (runtime, network, batch)
        for runtime in ("torch", "onnx", "program")
        for network in ("dense", "pruned")
        for batch in (1, 64)
    }
    for row in rows:
        low, high = row["quartiles_ms"]
        assert 0 < low <= row["median_ms"] <= high
    assert found["latency"]["threads"] == 1


@pytest.mark.parametrize(
    "model", [{"name": "resnet8", "shortcut": "B"}, {"name": "lenet-5"}, {"name": "mlp"}]
)
def test_other_networks_are_traced_for_every_batch_size(model):
    network = small_network(**model).eval()
    module = trace(network).module()
    for batch in (1, 3, 64):
        images = DIGITS.normalise(DIGITS.test.images[:batch])
        torch.testing.assert_close(module(images), network(images))


def test_another_function_is_told_apart_from_the_network():
    network = small_network().eval()
    images = DIGITS.normalise(DIGITS.test.images[:20])
    same = compare_outputs(network, network, images)
    assert same["difference"] == 0
    assert same["agreement"] == 1
    shifted = compare_outputs(network, lambda x: network(x) + 0.25, images)
    assert shifted["difference"] == pytest.approx(0.25, abs=1e-5)
    # of one image alone: what works only for the batch that it was traced with
    single = compare_outputs(network, lambda x: network(x) + (len(x) == 1), images)
    assert single["difference"] == pytest.approx(1, abs=1e-5)
    broken = compare_outputs(network, lambda x: network(x) * torch.nan, images)
    assert not broken["difference"] <= 1e9


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    network = small_network().eval()
    checkpoint.save(tmp_path / "net", network, data={"name": "digits", "path": None})
    wrong = Exported(b"wrong", lambda x: network(x) + 1e-3)
    target = tmp_path / "model.pt2"
    with pytest.raises(
        RuntimeError, match=r"model\.pt2 is not written: its outputs differ by 0\.001"
    ):
        export(
            tmp_path / "net",
            ExportConfig(images=8),
            {"program": target},
            formats={"program": lambda *_: wrong},
        )
    assert not target.exists()


@pytest.fixture(scope="module")
def network_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network") / "net"
    checkpoint.save(folder, small_network(), data={"name": "digits", "path": None})
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--onnx", "a.onnx"], "no run or checkpoint at nowhere"),
        ([".", "--onnx", "a.onnx"], "no checkpoint at .: it has no model.json, pruned/"),
        (["NET"], "name what to write: --onnx"),
        (["NET", "--onnx", "a.bin"], "the file is written as .onnx"),
        (["NET", "--program", "a.pth"], "the file is written as .pt2"),
        (["NET", "--onnx", "no/a.onnx"], "there is no folder no"),
        (["NET", "--onnx", "dir.onnx"], "is a folder"),
        (["NET", "--onnx", "/proc/a.onnx"], "/proc/a.onnx cannot be written"),
        (["NET", "--program", "a.pt2", "images=0"], "images"),
        (["NET", "--program", "a.pt2", "image=1"], "the nearest valid one is 'images'"),
    ],
)
def test_wrong_input_is_one_line(words, message, network_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.onnx").mkdir()
    words = [str(network_folder) if word == "NET" else word for word in words]
    assert message in refusal(["export", *words], monkeypatch, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["dir.onnx"]


def test_a_missing_package_is_named_before_anything_is_done(
    network_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, sys)  # present, whether it is installed or not
    target = tmp_path / "a.onnx"
    line = refusal(["export", str(network_folder), "--onnx", str(target)], monkeypatch, capsys)
    assert line.endswith("--onnx needs the package onnxruntime: pip install 'mipprune[export]'")
    assert not target.exists()


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.architecture = {"name": "lenet-5", "shape": (1, 8, 8)}

        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="lenet-5 cannot be exported: "):
        trace(Branching())


def refusal(words, monkeypatch, capsys):
    """The one line on stderr of a command that exits with code 2."""
    monkeypatch.setattr(sys, "argv", ["mipprune", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line
