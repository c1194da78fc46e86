"""A derivation as mathematics to read: one statement a line, for a terminal or in LaTeX."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from formulations.symbolic.algebra import UNKNOWN_PROX, UNKNOWN_RADIUS, Algebra
from formulations.symbolic.equations import s

# letters of the remarks that LaTeX writes as mathematics
_LATEX = {
    "φ": r"$\varphi$",
    "ψ": r"$\psi$",
    "σ": r"$\sigma$",
    "‖": r"$\|$",
    "∞": r"$\infty$",
    "₁": "$_1$",
    "₂": "$_2$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "·": r"$\cdot$",
}


@dataclass(frozen=True)
class Statement:
    """A named expression.

    Parameters
    ----------
    name, latex_name : str
        Of the left-hand side.
    expression : sympy expression
    remark : str
        In words; may be empty.
    """

    name: str
    latex_name: str
    expression: sp.Basic
    remark: str = ""

    def text(self) -> str:
        """For a terminal, in Unicode."""
        named = self.expression.replace(sp.Max, sp.Function("max")).replace(
            sp.Min, sp.Function("min")
        )  # which sympy prints better
        body = sp.pretty(named, use_unicode=True, wrap_line=False).splitlines()
        lead = f"{self.name} = " if self.name else ""
        middle = len(body) // 2
        lines = [(lead if i == middle else " " * len(lead)) + line for i, line in enumerate(body)]
        return "\n".join(([self.remark] if self.remark else []) + ["    " + x for x in lines])

    def latex(self) -> str:
        """One row of an ``align*``."""
        lead = f"{self.latex_name} &= " if self.latex_name else "&"
        words = "".join(_LATEX.get(letter, letter) for letter in self.remark)
        remark = rf" && \text{{{words}}}" if words else ""
        return lead + sp.latex(self.expression) + remark


def statements(derivation: Algebra) -> list[Statement]:
    """All that a derivation says, in the order in which it follows."""
    d = derivation
    finite = "" if d.legendre_limit in (0, sp.oo) else f"where c < {d.legendre_limit}"
    found = [
        Statement("ψ(r)", r"\psi(r)", d.phi, f"shrinkage φ(w) = ψ(r), r = {_norm(d)}"),
        Statement("y·φ(w/y) + c·y", r"y\,\varphi(w/y) + c\,y", d.perspective, "perspective"),
    ]
    if d.psi == 0 or d.legendre_limit == 0:
        found.append(Statement("r*", "r^*", sp.oo, "no norm is ever paid for"))
    else:
        found.append(Statement("", "", d.stationarity, "r* is the root of"))
        if d.radius is None:
            found.append(Statement("r*", "r^*", UNKNOWN_RADIUS, "found by Newton's method"))
        else:
            found.append(Statement("r*", "r^*", d.radius, finite))
    found.append(Statement("y*(w)", "y^*(w)", d.keep_score, _joined("keep-score", finite)))
    found.append(Statement("h(w)", "h(w)", d.regimes, _joined("regularizer", finite)))
    if d.recession is not None and d.legendre_limit != 0:
        otherwise = f"where c ≥ {d.legendre_limit}: the recession form"
        found.append(Statement("h(w)", "h(w)", d.recession, otherwise))
    along, across = d.gradient
    found.append(
        Statement("∂h/∂s", r"\partial h/\partial s", along, _joined("gradient", "0 at w = 0"))
    )
    if d.bounded:
        found.append(Statement("∂h/∂m", r"\partial h/\partial m", across))
    if d.prox is not None:
        remark = "proximal step of length t, along w"
        if d.prox.has(UNKNOWN_PROX):
            remark += "; σ by Newton's method from σ + t·ψ'(σ) = s"
        found.append(Statement("‖prox(w)‖", r"\|\mathrm{prox}(w)\|", d.prox, remark))
    if d.conjugate is not None:
        remark = "conjugate of the dual norm v, " + ("without the bound" if d.bounded else "exact")
        found.append(Statement("h*(v)", "h^*(v)", d.conjugate, remark))
    if d.block_price is not None:
        if d.block_indicator is not None:
            remark = "indicator of a block, k groups with s ≥ r*·z, S the sum of their powers"
            found.append(Statement("z", "z", d.block_indicator, remark))
        found.append(Statement("y*_j", "y^*_j", sp.Min(sp.Symbol("z"), s / d.root), "nested"))
    return found


def latex(derivation: Algebra) -> str:
    """The statements as one ``align*``."""
    rows = " \\\\\n".join(statement.latex() for statement in statements(derivation))
    return "\\begin{align*}\n" + rows + "\n\\end{align*}"


def symbols(derivation: Algebra) -> str:
    """What the letters mean, in a line."""
    d = derivation
    words = [f"s = {_norm(d)}"]
    if d.bounded:
        words.append(f"m = {'‖w‖₂' if d.ball else '‖w‖∞'}, m ≤ M·y, M = {d.bound:g}")
    words.append(f"c = {d.price:g}")
    words += [f"{name} = {value:g}" for name, value in d.defaults.items()]
    if d.extract != 0:
        words.append(f"δ = {d.extract} subtracted as δ·s²")
    if d.block_price is not None:
        words.append(f"C = {d.block_price:g}, y_j ≤ z in every block")
    return ", ".join(words)


def _norm(derivation: Algebra) -> str:
    sign = {1.0: "₁", 2.0: "₂"}.get(derivation.norm, f"_{derivation.norm:g}")
    return f"‖w‖{sign}"


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)
