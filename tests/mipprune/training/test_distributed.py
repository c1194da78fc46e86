"""Several processes train what one would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from formulations.errors import InputError
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.distributed.ranks import Ranks, join_ranks
from mipprune.runs import checkpoint
from mipprune.runs.folder import RunFolder
from mipprune.training.phases import Run
from mipprune.training.run import train

SCRIPT = Path(__file__).with_name("two_ranks.py")
SMALL = [
    "model.name=resnet8", "model.width=4", "data.batch=128", "recalibrate=128",
    "reference=true", "pretrain.epochs=1", "regularize.epochs=2", "finetune.epochs=2",
    "sync_batchnorm=true",
]  # fmt: skip
METHODS = {
    "spr": ["budget.macs=0.5"],
    "complexity": ["method.nu=30", "method.rate=0.1", "method.sigma=1", "budget.macs="],
}


def torchrun(*words, ranks=2, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, f"--nproc-per-node={ranks}", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """A folder with the run of each method by two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = [
        json.dumps([f"digits-{method}", *SMALL, *words, f"runs={folder}", f"name={method}"])
        for method, words in METHODS.items()
    ]
    done = torchrun(SCRIPT, *runs, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("method", list(METHODS))
def test_two_ranks_give_the_result_of_one_process(method, two_ranks, tmp_path, doubles):
    """Through all phases: losses, accuracies, the groups that stay, the weights."""
    words = [*SMALL, *METHODS[method], f"runs={tmp_path}", "name=one"]
    train(configure(Config, read_recipe(f"digits-{method}"), words))
    one, two = lines(tmp_path / "one"), lines(two_ranks / method)
    assert [line["phase"] for line in one] == [line["phase"] for line in two]
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "accuracy", "kept_macs", "lam", "nu", "expected_macs"):
            assert a.get(key) == pytest.approx(b.get(key), abs=1e-5), (a["phase"], a["epoch"], key)
    networks = [
        checkpoint.load(run / "pruned")[0] for run in (tmp_path / "one", two_ranks / method)
    ]
    for a, b in zip(*(n.state_dict().values() for n in networks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_batch_in_parts_gives_the_gradients_of_the_whole(tmp_path, doubles):
    """Of a network without BatchNorm, whose statistics are those of a part."""
    for parts in (1, 4):
        words = ["model.name=mlp", "model.hidden=[16,8]", "model.width=", "model.shortcut="]
        words += ["data.batch=64", "budget.macs=0.5", f"accumulate={parts}", f"name=p{parts}"]
        words += [w for w in SMALL if not w.startswith(("model", "data"))]
        given = [*words, f"runs={tmp_path}"]
        train(configure(Config, read_recipe("digits-spr"), given))
    for a, b in zip(lines(tmp_path / "p1"), lines(tmp_path / "p4"), strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_failed_rank_is_started_anew_and_the_run_goes_on(tmp_path):
    """The command line, BatchNorm statistics of each rank's own but one average, one writer."""
    script = tmp_path / "dies_once.py"
    script.write_text(
        "import functools\n"
        "import os\n"
        "import torch\n"
        "from mipprune.training import run as training\n"
        "def die(run):\n"
        "    first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "    if first and run.ranks.rank == 1 and run.place.phase == 'finetune':\n"
        "        os._exit(9)\n"
        "    if run.subject.average:\n"
        "        for tensor in run.subject.average.network.state_dict().values():\n"
        "            first = tensor.clone()\n"
        "            torch.distributed.broadcast(first, 0)\n"
        "            assert torch.equal(first, tensor)\n"
        "hooks = training.Hooks(after_save=die)\n"
        "training.train = functools.partial(training.train, hooks=hooks)\n"
        "from mipprune.cli import main\n"
        "main()\n"
    )
    words = [w for w in SMALL if "reference" not in w and "sync" not in w]
    words += ["reference=false", "name=again", f"runs={tmp_path}", "budget.macs=0.5"]
    words += ["method.growth=0.2", "method.stabilise=5", "optimizer.ema=0.9"]
    done = torchrun("--max-restarts=1", script, "train", "digits-greg1", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    phases = [line["phase"] for line in lines(tmp_path / "again")]
    assert "resume" in phases
    assert phases[-1] == "finetune"
    result = json.loads((tmp_path / "again/result.json").read_text())
    assert result["device"].startswith("2 × cpu")
    assert result["kept"]["macs"] <= 0.5
    assert done.stdout.count("run folder") == 1


def test_what_ranks_cannot_share_is_refused(tmp_path, monkeypatch):
    given = configure(Config, read_recipe("digits-spr"), ["data.batch=127", f"runs={tmp_path}"])
    ranks = Ranks(0, 2)
    with pytest.raises(InputError, match=r"data.batch=127 cannot be divided into 2 processes"):
        Run(given, RunFolder(given, ranks), ranks)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"device=cuda:0 names one device for 2 processes"):
        join_ranks("cuda:0")
