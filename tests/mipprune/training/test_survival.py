"""No run is lost: kills, signals, damaged checkpoints, a full disk, numbers that are not finite."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from formulations.errors import InputError
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.distributed.ranks import Ranks
from mipprune.runs import checkpoint, files
from mipprune.runs.folder import RunFolder
from mipprune.training.monitor import Interrupted
from mipprune.training.run import Hooks, train

SMALL = [
    "model.name=resnet8", "model.width=4", "data.batch=128", "recalibrate=128", "reference=true",
    "pretrain.epochs=1", "regularize.epochs=2", "finetune.epochs=2", "checkpoint_steps=4",
]  # fmt: skip
METHODS = {
    "spr": ["budget.macs=0.5"],
    "complexity": ["method.nu=30", "method.rate=0.1", "method.sigma=1", "budget.macs="],
}
UNTOLD = ("time", "images_per_s", "latency_ms")


def words(method, folder, name):
    return [*SMALL, *METHODS[method], f"runs={folder}", f"name={name}"]


def config(method, folder, name, *more):
    given = [*words(method, folder, name), *more]
    return configure(Config, read_recipe(f"digits-{method}"), given)


def story(folder):
    """The run's metrics without what is about time."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").open()]
    return [
        {key: value for key, value in line.items() if key not in UNTOLD}
        for line in lines
        if line["phase"] != "resume"
    ]


def same(folder, one, two):
    a, b = Path(folder, one), Path(folder, two)
    assert story(a) == story(b)
    for name in ("dense", "pruned"):
        files = [run / name / "model.safetensors" for run in (a, b)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the uninterrupted run of each method."""
    folder = tmp_path_factory.mktemp("whole")
    for method in METHODS:
        train(config(method, folder, method))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("method", "seed"), [("spr", 1), ("complexity", 2)])
def test_ten_kills_at_random_moments_change_nothing(whole, tmp_path, method, seed):
    """Together the loop of 20: nearly every second one is SIGKILL, the others are signals."""
    folder = whole / f"killed-{method}"
    command = [sys.executable, Path(__file__).with_name("survivor.py"), seed, 10, folder, "train"]
    given = [f"digits-{method}", *words(method, whole, folder.name)]
    done = subprocess.run(
        [*map(str, command), *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same(whole, method, folder.name)


class Cut(Exception):
    """In the place of a kill."""


def moment(place):
    return place.phase, place.epoch, place.step


@pytest.fixture
def cut(whole):
    """A run that was ended in the middle of its second regularize epoch."""

    def die(run):
        if moment(run.place) == ("regularize", 1, 8):
            raise Cut

    def make(name):
        with pytest.raises(Cut):
            train(config("spr", whole, name), hooks=Hooks(after_save=die))
        return whole / name

    yield make
    for run in whole.glob("cut-*"):
        shutil.rmtree(run)


def flip(path, chance):
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def truncate(path, chance):
    os.truncate(path, chance.randrange(path.stat().st_size))


@pytest.mark.parametrize("damage", [flip, truncate])
def test_no_damage_to_any_file_goes_unnoticed(cut, damage):
    folder, chance = cut(f"cut-{damage.__name__}"), random.Random(0)
    files = sorted((folder / "last").iterdir())
    assert len(files) == 5
    for path in files * 4:
        sound = path.read_bytes()
        damage(path, chance)
        *_, state, broken = checkpoint.load_generation(folder / "last")
        assert "corrupt checkpoint" in broken
        assert (state["epoch"], state["step"]) == (1, 4)
        path.write_bytes(sound)
    *_, state, broken = checkpoint.load_generation(folder / "last")
    assert (state["epoch"], state["step"], broken) == (1, 8, None)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(whole, cut, capsys):
    folder = cut("cut-damaged")
    flip(folder / "last/state.json", random.Random(3))
    train(config("spr", whole, folder.name), resume=True)
    said = capsys.readouterr().err
    assert "corrupt checkpoint" in said
    assert "the checkpoint before" in said
    assert (folder / "last.corrupt").exists()
    same(whole, "spr", folder.name)


def test_a_checkpoint_that_the_disk_cannot_read_counts_as_damaged(cut, monkeypatch):
    folder, read = cut("cut-unreadable"), files.file_digest

    def failing(path):
        if path.parent.name == "last":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(files, "file_digest", failing)
    *_, state, broken = checkpoint.load_generation(folder / "last")
    assert (state["epoch"], state["step"]) == (1, 4)
    assert broken == f"unreadable checkpoint: {folder / 'last'}: Input/output error"


def test_a_run_that_lost_its_checkpoints_is_not_begun_anew_over_its_results(whole, cut):
    folder = cut("cut-lost")
    shutil.rmtree(folder / "last")
    shutil.rmtree(folder / "last.previous")
    with pytest.raises(InputError, match=r"has metrics but no checkpoint last/"):
        train(config("spr", whole, folder.name), resume=True)


def test_settings_that_are_no_text_are_said_in_one_line(whole, cut):
    folder = cut("cut-binary")
    (folder / "config.yaml").write_bytes(b"\xff\xfe\x98")
    with pytest.raises(InputError, match=r"config.yaml is not text"):
        train(config("spr", whole, folder.name), resume=True)


def test_only_a_full_disk_is_said_to_need_room(tmp_path):
    folder = RunFolder(config("spr", tmp_path, "said"), Ranks())
    for number, words in ((errno.ENOSPC, "cannot write"), (errno.EMFILE, "Too many open files")):
        said = str(folder.write_error(OSError(number, os.strerror(number))))
        assert words in said
        assert ("cannot write" in said) == (number == errno.ENOSPC)


def test_with_both_damaged_nothing_is_touched(whole, cut):
    folder, chance = cut("cut-both"), random.Random(4)
    for name in ("last", "last.previous"):
        flip(folder / name / "model.safetensors", chance)
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="corrupt checkpoint"):
        train(config("spr", whole, folder.name), resume=True)
    assert files == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_not_resumed_with_other_settings(whole, cut):
    folder = cut("cut-other")
    other = config("spr", whole, folder.name, "budget.macs=0.4")
    with pytest.raises(InputError, match=r"began with budget.macs=0.5, not 0.4: resume"):
        train(other, resume=True)


def test_a_run_that_had_only_begun_begins_again(whole, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.yaml").write_text("")
    train(config("spr", tmp_path, "begun"), resume=True)
    shutil.copytree(tmp_path / "begun", whole / "begun")
    same(whole, "spr", "begun")


def signalled_at(*where):
    """A hook that sends SIGTERM to its own process after a step."""

    def hook(place, subject):
        if moment(place) == where:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


def test_a_signal_saves_the_run_at_the_step_where_it_was(whole):
    hooks = Hooks(after_step=signalled_at("reference", 0, 5))
    with pytest.raises(Interrupted, match=r"SIGTERM at step 5 of epoch 1 \(reference\)"):
        train(config("spr", whole, "cut-signalled"), hooks=hooks)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    *_, state, _ = checkpoint.load_generation(whole / "cut-signalled/last")
    assert (state["phase"], state["step"]) == ("reference", 5)
    train(config("spr", whole, "cut-signalled"), resume=True)
    same(whole, "spr", "cut-signalled")


def test_a_signal_is_heeded_in_epochs_shorter_than_the_steps_between_two_looks(whole):
    """As on a GPU or with several processes, which look at every 20th step."""
    hooks = Hooks(after_step=signalled_at("pretrain", 0, 3), look_every=20)
    with pytest.raises(Interrupted, match=r"SIGTERM at step 0 of epoch 2 \(pretrain\)"):
        train(config("spr", whole, "cut-late", "checkpoint_steps=0"), hooks=hooks)
    train(config("spr", whole, "cut-late"), resume=True)
    same(whole, "spr", "cut-late")


def test_the_optimizer_s_tensors_lie_in_memory_as_their_weights(cut):
    """After a resume and after removal: a GPU's fused optimizer refuses others."""
    folder, phases = cut("cut-laid"), set()

    def lies(tensor):
        return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]

    def look(run):
        for weight, entries in run.subject.optimizer.state.items():
            assert lies(entries["momentum_buffer"]) == lies(weight)
            phases.add(run.place.phase)

    *_, state, _ = checkpoint.load_generation(folder / "last")
    assert not {"fused", "foreach"} & set(state["optimizer"])  # these are of the device
    train(config("spr", folder.parent, folder.name), resume=True, hooks=Hooks(after_save=look))
    assert phases == {"regularize", "finetune"}


def test_a_full_disk_stops_the_run_and_leaves_it_intact(whole):
    """Files larger than a quota cannot be written from the fourth checkpoint on."""
    saved = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(run):
        saved.append(run.place)
        if len(saved) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))

    try:
        with pytest.raises(RuntimeError, match=r"too large.* is intact: make room") as error:
            train(config("spr", whole, "cut-full"), hooks=Hooks(after_save=fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert not list((whole / "cut-full").glob(".*"))
    train(config("spr", whole, "cut-full"), resume=True)
    same(whole, "spr", "cut-full")


@pytest.mark.parametrize("every", [1, 20])
def test_nan_stops_at_the_last_good_state_and_is_traced_to_its_layer(whole, every):
    """In the weights of one layer, after step 7 of the second regularize epoch."""
    name, eager = f"cut-nan-{every}", {}

    def poison(place, subject):
        passes = subject.gradients.passes
        eager.setdefault(moment(place), []).append(not passes.graph and not passes.compile)
        if moment(place) == ("regularize", 1, 7):
            with torch.no_grad():
                subject.network.get_submodule("layer2.0.conv1").weight[0, 0] = float("nan")

    with pytest.raises(RuntimeError) as error:
        train(config("spr", whole, name), hooks=Hooks(after_step=poison, look_every=every))
    # hooks cannot look into a CUDA graph or compiled code: the replay goes without
    assert eager["regularize", 1, 7] == [False, True]
    said = str(error.value)
    assert "step 7 of epoch 2 (regularize)" in said
    assert "the weights of layer2.0.conv1" in said
    assert "intact at step 4 of epoch 2 (regularize)" in said
    assert "\n" not in said
    train(config("spr", whole, name), resume=True)
    same(whole, "spr", name)


def test_a_learning_rate_that_overflows_is_said_in_one_line(tmp_path):
    given = config("spr", tmp_path, "wild", "pretrain.lr=1e30", "reference=false")
    with pytest.raises(RuntimeError, match=r"diverged at step .* of epoch 1 .*is not finite"):
        train(given)
    network, *_ = checkpoint.load_generation(tmp_path / "wild/last")
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_no_state_is_saved_between_a_method_s_end_and_that_of_its_epoch(tmp_path):
    """From such a state the epoch's line in the metrics would be missing."""
    saved = []

    def note(run):
        saved.append((run.place.phase, run.place.step, run.method.done))

    words = ["checkpoint_steps=1", "reference=false", "pretrain.epochs=0", "regularize.epochs=4"]
    given = config("spr", tmp_path, "done", *words, "method.lam=0.1", "method.growth=2")
    train(given, hooks=Hooks(after_save=note))
    regularize = [(step, done) for phase, step, done in saved if phase == "regularize"]
    assert len(regularize) < 4 * 10  # the phase ended early
    assert (0, True) in regularize
    assert not [step for step, done in regularize if done and step > 0]
