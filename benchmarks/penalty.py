"""The generated penalty's time against the same formulas written by hand, and against autograd.

All three are evaluated on the convolution weights of a ResNet, one after the other in every round,
so that they meet the same machine; the table gives medians and their ratios. The hand-written
square has SPR's closed forms (docs/theory.md) typed in; autograd differentiates h itself.

    python benchmarks/penalty.py [--model resnet56] [--device auto] [--rounds 200] [--record]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from environment import environment

from formulations.symbolic.catalogue import CATALOGUE, entry
from mipprune.distributed.device import pick_device
from mipprune.models.registry import build
from mipprune.penalties.group_penalty import GroupPenalty
from mipprune.runs.files import write_json
from mipprune.structure.groups import find_groups

SHAPE = (3, 32, 32)
A, C, BOUND = 0.1, 0.9, 4.0


class HandWritten:
    """φ = a‖w‖², price c, bound M, its formulas typed in; what a GroupPenalty asks of a term."""

    def __init__(self, a: torch.Tensor, c: torch.Tensor, m: torch.Tensor):
        self.a, self.c, self.bound = a, c, m
        self.radius = (c / a).sqrt()

    def gradient_factors(self, norm, peak):
        """(radial, axial) of the gradient."""
        y = torch.clamp(torch.maximum(peak / self.bound, norm / self.radius), 0, 1)
        positive = y > 0
        safe = torch.where(positive, y, 1.0)
        radial = torch.where(positive, 2 * self.a / safe, 0.0)
        share = peak / self.bound
        decides = positive & (share * self.radius > norm) & (share < 1)
        axial = (self.c - self.a * (norm / safe) ** 2) / self.bound
        return radial, torch.where(decides, axial, 0.0)

    def prox_factor(self, norm, peak, step):
        """Factor of the proximal step, NaN where the box is active."""
        shift = 2 * step * self.a
        y = torch.clamp(norm / self.radius - shift, 0, 1)
        active = (peak > self.bound * (y + shift)) & (peak > 0)
        return torch.where(active, torch.nan, y / (y + shift))


class Autograd:
    """h of all groups as a torch expression; its gradient by backward."""

    def __init__(self, penalty: GroupPenalty, parameters):
        self.penalty, self.parameters = penalty, parameters

    def add_gradient_(self):
        """What GroupPenalty.add_gradient_ does, by automatic differentiation."""
        penalty, term = self.penalty, self.penalty.term
        power = torch.zeros(penalty.count + 1, device=penalty.weights.device)
        peaks = []
        for rows in penalty.weights.rows:
            flat = (
                rows.parameter.flatten(1) if rows.parameter.dim() > 1 else rows.parameter[:, None]
            )
            power = power.index_add(0, rows.group, flat.square().sum(1))
            peaks.append((rows.group, flat.abs().amax(1)))
        peak = torch.zeros_like(power)
        for group, values in peaks:
            peak = peak.scatter_reduce(0, group, values, "amax")
        s, m = (power[:-1] + 1e-30).sqrt(), peak[:-1]
        y = torch.clamp(torch.maximum(m / term.bound, s / term.radius), 1e-30, 1)
        h = (A * s**2 / y + C * y).sum()
        h.backward()


def main() -> None:
    """Measure and print; with --record also store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--record", action="store_true", help="write benchmarks/results/penalty.json"
    )
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    torch.manual_seed(0)
    network = build({"name": arguments.model, "shape": SHAPE, "classes": 10}).to(device)
    groups = find_groups(network, SHAPE)
    parameters = dict(network.named_parameters())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)

    def penalty(term):
        return GroupPenalty(network, groups, term)

    generated = penalty(entry("square").term(C, BOUND, a=A))
    by_hand = penalty(entry("square").term(C, BOUND, a=A))
    by_hand.term = _hand_written(by_hand)
    ways = {
        "gradient": {
            "hand-written": by_hand.add_gradient_,
            "generated": generated.add_gradient_,
            "autograd": Autograd(generated, parameters).add_gradient_,
        },
        "proximal step": {
            "hand-written": lambda: by_hand.prox_(1e-6),
            "generated": lambda: generated.prox_(1e-6),
        },
    }
    for name in CATALOGUE:
        derivation = entry(name)
        if derivation.block_price is None and name != "square":
            other = penalty(derivation.term(bound=BOUND))
            ways["gradient"][f"generated: {name}"] = other.add_gradient_
            ways["proximal step"][f"generated: {name}"] = lambda other=other: other.prox_(1e-6)
    rows = []
    for operation, candidates in ways.items():
        times = _measure(candidates, arguments.rounds, device)
        reference = times["hand-written"]
        for name, seconds in times.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, reference, strict=True))
            milliseconds = 1e3 * statistics.median(seconds)
            rows.append({"operation": operation, "way": name, "ms": milliseconds, "ratio": ratio})
            print(f"{operation:14} {name:26} {milliseconds:8.3f} ms   × {ratio:.2f}")
    if arguments.record:
        weights = sum(parameters[m.tensor].numel() for m in groups.producers())
        measured = {
            "model": arguments.model,
            "weights": weights,
            "groups": groups.count,
            "rounds": arguments.rounds,
            "rows": rows,
        }
        write_json(
            Path("benchmarks/results/penalty.json"),
            {"environment": environment(), "result": measured},
        )


def _hand_written(penalty: GroupPenalty) -> HandWritten:
    term = penalty.term
    hand = HandWritten(*(torch.full_like(term.price, x) for x in (A, C, BOUND)))
    hand.profile = term.profile
    return hand


def _measure(candidates, rounds: int, device: torch.device) -> dict[str, list[float]]:
    times = {name: [] for name in candidates}
    for number in range(rounds + 10):
        for name, work in candidates.items():
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            if number >= 10:  # warm
                times[name].append(time.perf_counter() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
