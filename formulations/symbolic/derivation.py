"""A derivation: the mathematics of a term in sympy, and its numbers.

:class:`Derivation` adds to :class:`formulations.symbolic.algebra.Algebra` the array code that is
generated from the expressions, and hands out the numeric terms of solvers and trainers.
:func:`formulations.derive` makes one of what a user writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from formulations.errors import InputError
from formulations.symbolic.algebra import Algebra
from formulations.symbolic.codegen import make_profile
from formulations.symbolic.standalone import standalone
from formulations.symbolic.validation import check_parameters
from formulations.terms.nested import NestedTerm
from formulations.terms.profile import Profile
from formulations.terms.term import Term


@dataclass(frozen=True, eq=False)
class Derivation(Algebra):
    """A regularizer and all that follows from its φ. Made by :func:`formulations.derive`.

    Parameters as in :class:`formulations.symbolic.algebra.Algebra`.
    """

    @cached_property
    def profile(self) -> Profile:
        """ψ and what follows from it, as compiled array code."""
        return make_profile(self)

    def module(self) -> str:
        """Source of a module of its own: :func:`formulations.symbolic.standalone.standalone`."""
        return standalone(self)

    def term(
        self,
        price: ArrayLike | None = None,
        bound: ArrayLike | None = None,
        weight: ArrayLike = 1.0,
        **parameters: ArrayLike,
    ) -> Term:
        """The term in numbers: weight·ψ and price·y. Nested indicators: see :meth:`nested`.

        Parameters
        ----------
        price, bound : float or (G,) array, optional
            c and M; the derivation's own values where not given.
        weight : float or (G,) array
            Factor of φ.
        **parameters : float or (G,) array
            Instead of the derivation's own values.

        Raises
        ------
        InputError
            For an unknown parameter, or a value that cannot be.
        """
        return Term(**self._numbers(price, bound, weight, parameters))

    def nested(
        self,
        blocks: ArrayLike,
        block_price: ArrayLike | None = None,
        price: ArrayLike | None = None,
        weight: ArrayLike = 1.0,
        **parameters: ArrayLike,
    ) -> NestedTerm:
        """The term in numbers where groups are nested in blocks; see also :meth:`term`.

        Parameters
        ----------
        blocks : (G,) integers from 0
            The block of every group.
        block_price : float or (B,) array, optional
            C.
        price, weight, **parameters
            As in :meth:`term`.

        Raises
        ------
        InputError
            If the derivation has no block price, a norm other than ‖·‖₂, a bound or an extraction.
        """
        if self.block_price is None:
            raise InputError("this term has no nested indicators: derive it with block_price")
        block_price = self.block_price if block_price is None else block_price
        numbers = self._numbers(price, None, weight, parameters)
        return NestedTerm(**numbers, blocks=np.asarray(blocks), block_price=np.asarray(block_price))

    def _numbers(
        self,
        price: ArrayLike | None,
        bound: ArrayLike | None,
        weight: ArrayLike,
        parameters: Mapping[str, ArrayLike],
    ) -> dict[str, Any]:
        """What a term is made of, by name."""
        values: dict[str, ArrayLike] = {**self.defaults}
        for name, value in parameters.items():
            if name not in values:
                known = ", ".join(values) or "none"
                raise InputError(f"unknown parameter {name!r}: φ has {known}")
            self.parameters[name].check(name, value)
            values[name] = value
        if parameters:
            check_parameters(self, values)
        numbers = {name: np.asarray(value, np.float64) for name, value in values.items()}
        with np.errstate(invalid="ignore"):  # an infinite weight is refused by the term
            extract = self.profile.extract(np, **numbers) * np.asarray(weight)
        return {
            "profile": self.profile,
            "price": np.asarray(self.price if price is None else price),
            "bound": np.asarray(self.bound if bound is None else bound),
            "weight": np.asarray(weight),
            "extract": extract,
            "parameters": numbers,
        }
