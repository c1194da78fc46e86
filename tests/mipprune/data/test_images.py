"""Streamed images: folders and parquet, order, crops, workers, damage, whole runs on JPEGs."""

import io
import multiprocessing
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_checks import assert_same, check_epochs, check_examples, check_test_images
from hypothesis import given
from hypothesis import strategies as st
from image_files import CLASSES, make_folder, make_parquet
from PIL import Image
from torch.nn import functional as F

from formulations.errors import InputError
from mipprune.analysis.evaluate import evaluate_checkpoint
from mipprune.config.evaluate import EvalConfig
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.data.order import arrange, draw
from mipprune.data.readers import Encoded, Shards
from mipprune.data.registry import load
from mipprune.data.transforms import CenterCrop, RandomCrop, decode
from mipprune.training.run import train

CPU = torch.device("cpu")
CHUNKS = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images") / "folder")


@pytest.fixture(scope="module")
def shards(folder):
    return make_parquet(folder.parent / "parquet", folder)


@pytest.fixture(params=["folder", "parquet"])
def place(request, folder, shards):
    return str(folder if request.param == "folder" else shards)


def images(path, **options):
    return load("images", str(path), CPU, **{"size": 32, "workers": 0, **options})


# ---- what every data set does -----------------------------------------------------------------


def test_streamed_data_do_what_data_must(place):
    data = images(place)
    assert (data.classes, data.shape, data.train_size, data.test_size) == (4, (3, 32, 32), 48, 20)
    check_epochs(data, 12)
    check_test_images(data, 7)
    check_examples(data)


def test_the_number_of_workers_changes_nothing(place):
    alone, shared = images(place), images(place, workers=2)
    for kind, words in (("train_batches", (12, 3, 1, 1)), ("test_batches", (9,))):
        batches = [list(getattr(data, kind)(*words)) for data in (alone, shared)]
        for one, two in zip(*batches, strict=True):
            assert_same(one, two)


def test_folder_and_parquet_hold_the_same_images_with_classes_in_order_of_names(folder, shards):
    labels = torch.arange(4).repeat_interleave(5)
    batches = [next(iter(images(path).test_batches(20))) for path in (folder, shards)]
    assert_same(*batches)
    assert torch.equal(batches[0][1], labels)
    colours = batches[0][0].mean((2, 3))
    assert colours[labels == CLASSES.index("red")].argmax(1).eq(0).all()
    assert colours[labels == CLASSES.index("blue")].argmax(1).eq(2).all()


def test_shards_that_note_no_classes_have_as_many_as_their_labels(folder, tmp_path):
    assert images(make_parquet(tmp_path / "p", folder, names=False)).classes == 4


def test_shards_are_read_through_any_file_system(shards):
    memory = fsspec.filesystem("memory")
    for file in shards.iterdir():
        memory.pipe(f"/hub/data/{file.name}", file.read_bytes())
    remote = images("memory://hub")
    batches = [list(data.train_batches(12, 0, 0)) for data in (remote, images(shards))]
    for one, two in zip(*batches, strict=True):
        assert_same(one, two)


# ---- order ------------------------------------------------------------------------------------


@given(CHUNKS, st.integers(1, 8), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_every_image_once_but_for_less_than_a_batch(chunks, lanes, seed, epoch):
    order = arrange(np.array(chunks), lanes, seed, epoch)
    assert order.shape == (lanes, sum(chunks) // lanes)
    found = np.unique(order)
    assert found.size == order.size
    assert found.size == 0 or (found[0] >= 0 and found[-1] < sum(chunks))


@given(CHUNKS, st.integers(1, 8))
def test_a_lane_opens_a_chunk_once_and_the_lanes_hardly_share_them(chunks, lanes):
    order = arrange(np.array(chunks), lanes, 0, 0)
    chunk = np.searchsorted(np.cumsum(chunks), order, side="right")
    visits = [[row[0], *(b for a, b in pairwise(row) if a != b)] for row in chunk if len(row)]
    assert all(len(set(visit)) == len(visit) for visit in visits)
    assert sum(map(len, visits)) <= sum(map(bool, chunks)) + lanes - 1


@given(CHUNKS, st.integers(1, 200), st.integers(0, 9))
def test_a_drawn_sample_has_different_images_from_few_chunks(chunks, count, seed):
    index = draw(np.array(chunks), count, seed, lanes=3)
    assert len(set(index)) == len(index) == min(count, sum(chunks))
    if count <= sum(chunks) // 3:
        ends = np.cumsum(chunks)
        own = np.searchsorted(ends, index, side="right")
        assert len(set(own)) <= 3 + 3 * (count // 3 + 1)


def test_an_epoch_reads_a_row_group_once_or_where_lanes_meet_twice(shards, monkeypatch):
    data = images(shards)
    read, seen = Shards._table, []
    monkeypatch.setattr(Shards, "_table", lambda self, g: seen.append(g) or read(self, g))
    assert len(list(data.train_batches(4, 0, 0))) == 12
    groups = len(data._train.chunks)
    assert groups <= len(seen) <= groups + 3
    seen.clear()
    assert len(list(data.train_batches(4, 0, 0, start=10))) == 2  # what is left out is not read
    assert len(seen) <= 8


# ---- pixels -----------------------------------------------------------------------------------


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 1000))
def test_crops_lie_in_the_image_and_have_the_published_sizes(width, height, index):
    crop = RandomCrop(32, 0, 0).draw(index, width, height)
    assert 0 <= crop.left <= width - crop.width
    assert 0 <= crop.top <= height - crop.height
    assert min(crop.width, crop.height) >= 1
    if min(width, height) >= 100 and max(width, height) <= 4 / 3 * min(width, height):
        assert 0.99 * 0.08 <= crop.width * crop.height / (width * height) <= 1
        assert 0.97 * 3 / 4 <= crop.width / crop.height <= 1.03 * 4 / 3


def test_crops_are_distributed_as_areas_and_logarithms_of_ratios_are():
    crops = [RandomCrop(32, 7, 0).draw(i, 10_000, 10_000) for i in range(3000)]
    areas = np.array([c.width * c.height / 1e8 for c in crops])
    ratios = np.log([c.width / c.height for c in crops])
    # a square cut of area s does not fit at every ratio once s > 3/4: large ones are refused more
    small = areas[areas < 0.7]
    assert np.quantile(small, 0.5) == pytest.approx((0.08 + 0.7) / 2, abs=0.03)
    assert ratios.mean() == pytest.approx(0, abs=0.02)
    narrow = ratios[areas < 0.7]
    assert narrow.std() == pytest.approx(2 * np.log(4 / 3) / np.sqrt(12), rel=0.05)
    assert np.mean([c.flip for c in crops]) == pytest.approx(0.5, abs=0.03)


def encoded(pixels, form="PNG", index=0):
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {})
    )
    return Encoded(index, file.getvalue(), 0, "it")


def smooth(height, width):
    """Waves that survive any resizing."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(7 * y / height + c) + np.cos(5 * x / width - c) for c in range(3)]
    return (127 + 60 * np.stack(waves, 2)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(90, 60), (61, 97), (20, 33)])
def test_test_images_are_the_centre_of_the_resized_image(height, width):
    pixels = smooth(height, width)
    found = decode(encoded(pixels), CenterCrop(28))
    short = 32  # 28 · 256/224
    long = int(short * max(height, width) / min(height, width))
    size = (long, short) if height > width else (short, long)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    whole = F.interpolate(tensor, size, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((size[0] - 28) / 2), round((size[1] - 28) / 2)
    wanted = whole[0, :, top : top + 28, left : left + 28].permute(1, 2, 0).numpy()
    assert np.abs(found - wanted).max() <= 1.5


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("index", range(6))
def test_training_images_are_their_crop_resized_and_mirrored(form, index):
    """In JPEGs this large the decoder skips resolution: nothing of that may be seen."""
    pixels = smooth(300, 400)
    transform = RandomCrop(16, 1, 2)
    found = decode(encoded(pixels, form, index), transform)
    crop = transform.draw(index, 400, 300)
    cut = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    cut = cut[:, ::-1] if crop.flip else cut
    tensor = torch.from_numpy(cut.copy()).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(tensor, (16, 16), mode="bilinear", antialias=True)[0]
    difference = np.abs(found - wanted.permute(1, 2, 0).numpy())
    assert difference.max() <= (1.5 if form == "PNG" else 8)
    assert difference.mean() <= 1.5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(mode):
    file = io.BytesIO()
    Image.fromarray(smooth(20, 30)).convert(mode).save(file, "TIFF")
    for transform in (CenterCrop(8), RandomCrop(8, 0, 0)):
        assert decode(Encoded(0, file.getvalue(), 0, "it"), transform).shape == (8, 8, 3)


# ---- what can be wrong ------------------------------------------------------------------------


def test_what_is_not_an_image_set_is_one_line(folder, shards, tmp_path):
    def copy(name, source=folder):
        return shutil.copytree(source, tmp_path / name)

    (tmp_path / "empty").mkdir()
    missing, extra, hollow, flat = map(copy, ("missing", "extra", "hollow", "flat"))
    shutil.rmtree(missing / "val")
    (extra / "val/violet").mkdir()
    shutil.copy(folder / "val/red/00.jpg", extra / "val/violet")
    for file in (hollow / "train/red").iterdir():
        file.unlink()
    for file in list((flat / "val").rglob("*.jpg")):
        file.rename(flat / "val" / f"{file.parent.name}{file.name}")
    shutil.rmtree(flat / "val/red")
    for name in ("blue", "green", "grey"):
        (flat / "val" / name).rmdir()
    columns, broken = copy("columns", shards), copy("broken", shards)
    table = pa.table({"image": [b""], "label": [0]})
    pq.write_table(table, next(columns.glob("train-00000*")))
    next(broken.glob("train-00001*")).write_bytes(b"PAR1 no more")
    for path, message in [
        (tmp_path / "nowhere", "there is no folder data.path="),
        (tmp_path / "empty", "has no train/CLASS/ folders"),
        (missing, "has no val/CLASS/ folders"),
        (flat, "has no val/CLASS/ folders"),
        (hollow, "train/red has no images"),
        (extra, "differ in 1 classes; only the test images have violet"),
        (columns, "needs the columns image, of bytes and path, and label"),
        (broken, "cannot read .*train-00001"),
        ("nosuch://scheme", "could not be had"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            images(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(folder, shards, tmp_path, workers):
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "train/grey/03.jpg"
    file.write_bytes(file.read_bytes()[:300])
    unlabelled = shutil.copytree(shards, tmp_path / "unlabelled")
    first = next(unlabelled.glob("train-00000*"))
    table = pq.read_table(first)
    labels = pa.array([-1] * len(table))
    pq.write_table(table.set_column(1, "label", labels), first)
    for path, message in [(broken, r"damaged image .*grey/03\.jpg: "), (unlabelled, "no label")]:
        with pytest.raises(InputError, match=message) as caught:
            list(images(path, workers=workers).train_batches(48, 0, 0))
        assert "\n" not in str(caught.value)


def test_options_that_a_data_set_does_not_have_are_refused(folder, monkeypatch):
    with pytest.raises(InputError, match=r"data=digits has no option data\.size"):
        load("digits", None, CPU, size=32)
    with pytest.raises(InputError, match=r"data\.path=DIR"):
        load("images", None, CPU)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(InputError, match=r"data\.decoder=dali needs NVIDIA DALI"):
        images(folder, decoder="dali")


def test_dali_decodes_the_same_images_with_the_same_crops(place):
    pytest.importorskip("nvidia.dali")
    ours, theirs = images(place), images(place, decoder="dali")
    check_epochs(theirs, 12)
    check_test_images(theirs, 7)
    for kind, words in (("train_batches", (12, 0, 0)), ("test_batches", (7,))):
        batches = [list(getattr(data, kind)(*words)) for data in (ours, theirs)]
        for (one, labels), (two, same) in zip(*batches, strict=True):
            assert torch.equal(labels, same)
            assert float((one - two).abs().mean()) < 0.02  # one level of 256 is 0.017


def test_workers_outlive_the_signals_that_tell_a_run_to_stop(folder):
    data = images(folder, workers=2)
    batches = data.train_batches(2, 0, 0)
    first = next(batches)
    workers = [str(worker.pid) for worker in multiprocessing.active_children()]
    for name in ("INT", "TERM"):  # from another process, as Ctrl-C and clusters send them
        subprocess.run(["kill", f"-{name}", *workers], check=True)
    again = list(images(folder).train_batches(2, 0, 0))
    for one, two in zip([first, *batches], again, strict=True):
        assert_same(one, two)


def test_workers_end_with_an_epoch_that_nobody_finishes(folder):
    """Also where an error still holds on to it when the interpreter ends."""
    code = (
        "import sys, torch; from mipprune.data.registry import load\n"
        f"data = load('images', {str(folder)!r}, torch.device('cpu'), size=32, workers=2)\n"
        "batches = data.train_batches(2, 0, 0)\n"
        "next(batches)\n"
        "sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")


# ---- whole runs -------------------------------------------------------------------------------

QUICK = [
    "data.size=32", "data.batch=12", "data.workers=1", "model.width=4", "regularize.epochs=2",
    "regularize.lr=0.02", "finetune.epochs=1", "finetune.lr=0.02",
    "recalibrate=16", "budget.multiple=1",
]  # fmt: skip


def test_a_recipe_for_imagenet_runs_through_all_phases(place, tmp_path):
    words = [*QUICK, f"data.path={place}", "pretrain.epochs=1", f"runs={tmp_path}", "name=run"]
    result = train(configure(Config, read_recipe("imagenet-resnet18-spr"), words))
    assert result["kept"]["macs"] <= result["budget"]["macs"]
    assert (Path(tmp_path) / "run/regularized/model.safetensors").exists()
    again = evaluate_checkpoint(tmp_path / "run", EvalConfig(), own_data=True)
    assert again["accuracy"] == result["pruned"]["accuracy"]
