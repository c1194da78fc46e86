"""A pruned network for other programs: ONNX and ``torch.export``, checked and timed.

A file is written only once its model, read back from the very bytes, has given the outputs of the
network on real images. Its input is a batch of any size of normalised images, its output the
logits; by what the images are normalised stands in the file.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from formulations.errors import InputError
from formulations.output import write_output
from mipprune.config.export import ExportConfig
from mipprune.config.overrides import as_config
from mipprune.data.registry import Data, load
from mipprune.measures.latency import TIMED, WARM_UP, milliseconds
from mipprune.models.references.outputs import only_logits
from mipprune.models.registry import describe
from mipprune.runs import checkpoint
from mipprune.runs.layout import DENSE, PRUNED, RunLayout
from mipprune.runs.networks import check_fits

INPUT, OUTPUT = "images", "logits"
BATCHES = (1, 64)  # of the latency
TOLERANCE = 10  # times the network's own rounding: a larger difference is a failure
_UNIT = torch.finfo(torch.float32).eps
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Forward = Callable[[torch.Tensor], torch.Tensor]


class Exported(NamedTuple):
    """A network in one format: the file's bytes, and the model that was read back from them."""

    content: bytes
    forward: Forward


Format = Callable[[ExportedProgram, Data, int], Exported]
"""From a traced network, its data and the number of CPU threads."""


def export(
    folder: str | Path,
    config: ExportConfig | Mapping[str, Any] | None,
    targets: Mapping[str, Path],
    report: Callable[[str], None] = lambda _: None,
    formats: Mapping[str, Format] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write a network in other formats; compare outputs and latency.

    Parameters
    ----------
    folder : Path
        A checkpoint, or a run: its ``pruned`` network. The checkpoint ``dense`` beside it is timed
        in the same formats.
    config : ExportConfig, mapping or None
    targets : mapping of str to Path
        The file of each format: ``onnx``, ``program`` (that of :mod:`torch.export`).
    report : callable, optional
        Told in a few words what is being worked on.
    formats : mapping of str to callable, optional
        How the networks are brought into each format; by default :func:`to_onnx` and
        :func:`to_program`.
    **settings
        In place of those of ``config``: ``threads=1``.

    Returns
    -------
    dict
        ``parity``: of each file what :func:`compare_outputs` says. ``latency``: median and
        quartiles in ms by runtime, network and batch, with CPU threads and numbers of calls.
        Plain values, ready for JSON.

    Raises
    ------
    InputError
        If the folder holds no checkpoint, the data do not fit it, a package is missing, or the
        network cannot be traced.
    RuntimeError
        If a model's outputs differ from the network's by more than ``TOLERANCE`` times rounding;
        that file is not written.
    """
    config = as_config(ExportConfig, config, settings)
    if "onnx" in targets:
        _require_onnx()
    folder = checkpoint.find(Path(folder), PRUNED)
    network, source = checkpoint.load(folder, config.model)
    source = config.data.source() if config.data else source
    if not source.get("name"):
        raise InputError(f"{folder} names no data set: give data=NAME")
    data = load(**source, device=torch.device("cpu"))
    check_fits(folder, network, data)
    own = folder.resolve().name
    network = only_logits(network.eval())
    networks = {own: network}
    dense = _dense_beside(folder.resolve(), network, config.model)
    if dense is not None:
        networks = {DENSE: only_logits(dense.eval()), **networks}
    threads = config.threads or torch.get_num_threads()
    forms: dict[str, dict[str, Exported]] = {}
    for name, one in networks.items():
        report(f"{name}: tracing")
        program = trace(one)
        forms[name] = {}
        for kind in targets:
            report(f"{name}: {kind}")
            forms[name][kind] = (formats or _FORMATS)[kind](program, data, threads)
    images, _ = next(data.test_batches(config.images))
    parity = []
    for kind, path in targets.items():
        report(f"parity: {kind}")
        content, forward = forms[own][kind]
        found = compare_outputs(network, forward, images)
        if not found["difference"] <= TOLERANCE * found["rounding"]:  # nan neither
            raise RuntimeError(
                f"{path} is not written: its outputs differ by {found['difference']:.3g} from "
                f"the network's, whose own rounding is {found['rounding']:.3g}"
            )
        write_output(path, content)
        parity.append({"format": kind, "file": str(path), "bytes": len(content), **found})
    runtimes: dict[str, dict[str, Forward]] = {
        name: {"torch": one, **{kind: form.forward for kind, form in forms[name].items()}}
        for name, one in networks.items()
    }
    return {
        "checkpoint": str(folder),
        "data": data.name,
        "parity": parity,
        "latency": {
            "threads": threads,
            "warm_up": WARM_UP,
            "timed": TIMED,
            "rows": _latency(runtimes, data, threads, report),
        },
        "packages": {name: version(name) for name in _packages(targets)},
    }


@torch.inference_mode()
def compare_outputs(network: nn.Module, forward: Forward, images: torch.Tensor) -> dict[str, Any]:
    """The outputs of a network and of another form of it, on one image and on all at once.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    forward : callable
        (N, C, H, W) normalised images to (N, classes) logits, for every N.
    images : Tensor

    Returns
    -------
    dict
        ``images``; ``difference``: largest absolute difference, not finite if an output is not;
        ``rounding``: that of the network from itself in float64, at least one unit of float32 in
        the largest output; ``largest``: largest absolute output; ``agreement``: share of the images
        for which both predict the same class.
    """
    differences = []
    for batch in (images[:1], images):
        expected, got = network(batch), forward(batch)
        differences.append((expected - got).abs().max())  # nan stays nan
    exact = copy.deepcopy(network).double()(images.double())
    largest = float(exact.abs().max())
    rounding = max(float((expected - exact).abs().max()), _UNIT * largest)
    return {
        "images": len(images),
        "difference": float(torch.stack(differences).max()),
        "rounding": rounding,
        "largest": largest,
        "agreement": float((expected.argmax(1) == got.argmax(1)).float().mean()),
    }


def trace(network: nn.Module) -> ExportedProgram:
    """A network, in evaluation mode, as a graph of tensor operations for every batch size.

    Raises
    ------
    InputError
        If :mod:`torch.export` cannot trace it.
    """
    architecture = describe(network)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(
                network,
                (torch.zeros(2, *architecture["shape"]),),
                dynamic_shapes=({0: Dim("batch")},),
            )
    except Exception as error:  # a foreign model may break any of the tracer's rules
        name = architecture["name"]
        raise InputError(f"{name} cannot be exported: {_first_line(error)}") from None


def to_onnx(program: ExportedProgram, data: Data, threads: int) -> Exported:
    """ONNX, read back by ONNX Runtime on the CPU with so many threads."""
    import onnx  # noqa: PLC0415 - of an extra
    import onnxruntime  # noqa: PLC0415 - of an extra

    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
        assert exported is not None  # as it is with dynamo
        model = exported.model_proto
    onnx.helper.set_model_props(model, _properties(data))
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return Exported(content, forward)


def to_program(program: ExportedProgram, data: Data, threads: int) -> Exported:
    """A .pt2 file of :mod:`torch.export`, read back; torch's threads are those of the process."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files=_properties(data))
        content = file.getvalue()
        return Exported(content, torch.export.load(io.BytesIO(content)).module())


_FORMATS: Mapping[str, Format] = {"onnx": to_onnx, "program": to_program}


def _properties(data: Data) -> dict[str, str]:
    """What a user of the file has to know about its input."""
    return {"data": data.name, "mean": json.dumps(data.mean), "std": json.dumps(data.std)}


def _dense_beside(folder: Path, network: nn.Module, model: str | None) -> nn.Module | None:
    """What a run's network was before it was pruned."""
    beside = RunLayout(folder.parent).dense
    if folder == beside or not checkpoint.is_checkpoint(beside):
        return None
    dense, _ = checkpoint.load(beside, model)
    own, other = describe(network), describe(dense)
    return dense if all(own[k] == other[k] for k in ("name", "classes")) else None


def _latency(
    runtimes: Mapping[str, Mapping[str, Forward]],
    data: Data,
    threads: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Rows of network, runtime, batch, median_ms and quartiles_ms; networks take turns."""
    rows = []
    with _threads(threads), torch.inference_mode():
        for runtime in next(iter(runtimes.values())):
            for batch in BATCHES:
                images, _ = next(data.test_batches(batch))
                report(f"latency: {runtime}, batch {batch}")
                calls = {name: _bound(own[runtime], images) for name, own in runtimes.items()}
                for name, samples in milliseconds(calls).items():
                    low, median, high = statistics.quantiles(samples, n=4)
                    rows.append(
                        {
                            "network": name,
                            "runtime": runtime,
                            "batch": batch,
                            "median_ms": median,
                            "quartiles_ms": [low, high],
                        }
                    )
    return rows


def _bound(forward: Forward, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: forward(images)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on packages that no model here needs."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _require_onnx() -> None:
    for name in _ONNX_PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(
                f"--onnx needs the package {name}: pip install 'mipprune[export]'"
            ) from None


def _packages(targets: Mapping[str, Path]) -> tuple[str, ...]:
    return ("torch", *(_ONNX_PACKAGES if "onnx" in targets else ()))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
