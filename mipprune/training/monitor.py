"""What watches over the steps of a run: progress, checkpoints, signals, infinite numbers.

None of it waits for the GPU at every step: a sum that once was NaN stays NaN, so that a look now
and then is enough.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
from torch import nn

from mipprune.distributed.ranks import Ranks
from mipprune.training.loop import Place, Subject


def steps_between_looks(ranks: Ranks, device: torch.device) -> int:
    """More than one where a look costs something: on a GPU, or with other processes."""
    return 1 if ranks.world == 1 and device.type == "cpu" else 20


class Interrupted(RuntimeError):
    """The run was asked to stop by a signal, and has saved where it is.

    Attributes
    ----------
    signal : int
        Number of the signal.
    """

    def __init__(self, number: int, place: str) -> None:
        self.signal = number
        super().__init__(f"stopped by {signal.Signals(number).name} at {place}")


class Diverged(RuntimeError):
    """Loss or weights are not finite.

    Attributes
    ----------
    place : Place
        The step after which it was seen.
    where : str
        What is not finite, if that is known.
    """

    def __init__(self, place: Place, where: str = "") -> None:
        self.place, self.where = place, where
        super().__init__(where)


class Guard:
    """Called after every step.

    Parameters
    ----------
    ranks : Ranks
    device : torch.device
    advance : callable
        Told of every step, and of the epoch's mean loss so far, where it was looked at.
    save : callable
        Saves the run at a place.
    save_every : int
        Steps of an epoch between two checkpoints; 0: none within an epoch.
    look_every : int
        Steps between two looks at the loss and at signals.
    """

    def __init__(
        self,
        ranks: Ranks,
        device: torch.device,
        advance: Callable[[Place, float | None], None],
        save: Callable[[Place], None],
        *,
        save_every: int,
        look_every: int,
    ) -> None:
        self._ranks, self._device = ranks, device
        self._advance, self._save = advance, save
        self._save_every, self._look_every = save_every, look_every
        self._signal: int | None = None

    def __call__(self, place: Place, subject: Subject) -> None:
        """After a step.

        Raises
        ------
        Diverged
            If the loss has not been finite.
        Interrupted
            After a signal; the run is saved.
        """
        look = place.step % self._look_every == 0
        self._advance(place, float(place.loss) / place.step if look else None)
        due = self._save_every > 0 and place.step % self._save_every == 0
        if not (look or due):
            return
        self.check(place, subject.network, weights=due)
        stopping = self._ranks.any(self._signal is not None, self._device)
        if stopping:
            self.check(place, subject.network, weights=True)
        if stopping or due:
            self._save(place)
        if stopping:
            self._stop(place)

    def heed(self, place: Place) -> None:
        """At the end of an epoch, which is saved: an epoch may be shorter than a look is far.

        Raises
        ------
        Interrupted
            After a signal.
        """
        if self._ranks.any(self._signal is not None, self._device):
            self._stop(place)

    def _stop(self, place: Place) -> NoReturn:
        raise Interrupted(self._signal or signal.SIGTERM, describe(place))

    def check(self, place: Place, network: nn.Module, weights: bool) -> None:
        """Raise if the loss, or the weights if asked for, are not finite on some rank.

        Raises
        ------
        Diverged
        """
        bad = not bool(torch.isfinite(torch.as_tensor(place.loss)))
        bad = bad or (weights and not finite(network))
        if self._ranks.any(bad, self._device):
            raise Diverged(place)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of SIGTERM and SIGINT; a second one has its usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        before = {int(n): signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

        def note(number: int, frame: FrameType | None) -> None:
            self._signal = number
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class NonFiniteSearch:
    """Called after every step of a replay: finds the first one, and its layer, with such a number.

    The layer is the first in the forward pass whose output is not finite though its inputs are;
    else the first with such a gradient or, after the step, such weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self._found: str | None = None
        self._hooks = [
            module.register_forward_hook(self._look(name))
            for name, module in network.named_modules()
            if not list(module.children())
        ]
        self._hooks.append(network.register_forward_pre_hook(self._look_at_images))

    def _look_at_images(self, network: nn.Module, inputs: tuple[object, ...]) -> None:
        if self._found is None and not _all_finite(inputs):
            self._found = "a number in the images"

    def _look(self, name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if self._found is None and not _all_finite([output]) and _all_finite(inputs):
                bad = "weights" if not finite(module) else "output"
                self._found = f"the {bad} of {name}"

        return hook

    def __call__(self, place: Place, subject: Subject) -> None:
        """After a step.

        Raises
        ------
        Diverged
            At the first number that is not finite, saying where.
        """
        found = self._found
        parameters = list(subject.network.named_parameters())
        gradients = [("gradient", name, parameter.grad) for name, parameter in parameters]
        for what, name, tensor in (*gradients, *(("weights", *pair) for pair in parameters)):
            if found is None and not _all_finite([tensor]):
                found = f"the {what} of {name.rpartition('.')[0] or name}"
        if found is None and not _all_finite([torch.as_tensor(place.loss)]):
            found = "the loss"
        if found:
            raise Diverged(place, found)

    def close(self) -> None:
        """Take the hooks out."""
        for hook in self._hooks:
            hook.remove()


def finite(module: nn.Module) -> bool:
    """Whether all weights and statistics are finite."""
    return _all_finite([*module.parameters(), *module.buffers()])


def describe(place: Place) -> str:
    """A place in words, counted from 1."""
    return f"step {place.step} of epoch {place.epoch + 1} ({place.phase})"


def _all_finite(values: Iterable[object]) -> bool:
    """Whether no tensor among the values holds a number that is not finite."""
    tensors = [v.detach() for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]
    norms = [t.abs().amax() for t in tensors if t.numel()]
    return not norms or bool(torch.isfinite(torch.stack(norms)).all())
