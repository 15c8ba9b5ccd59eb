"""docs/graphs.md shows the allow-list as it is; `python tests/packaging/test_graph_docs.py` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from chiron.graph.constants import NAMES as CONSTANTS
from chiron.graph.loss import LossKind
from chiron.graph.operators import OPERATORS, OPSETS, Operand
from chiron.graph.primitives import PRIMITIVES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "graphs.md"
BEGIN, END = "<!-- operators -->\n", "<!-- end of operators -->\n"
SHORT = {
    Operand.FLOAT: "float",
    Operand.NUMBER: "number",
    Operand.FIXED: "fixed",
    Operand.INT: "integer",
    Operand.BOOL: "bool",
    Operand.ANY: "any",
    Operand.KNOWN: "constant",
}


def table() -> str:
    """Return the operators as a table."""
    lines = ["| operator | opsets | operands | attributes |", "|---|---|---|---|"]
    for name, row in OPERATORS.items():
        least = len(row.operands) - row.optional
        kinds = [SHORT[kind] for kind in row.operands]
        shown = [kind if place < least else f"[{kind}]" for place, kind in enumerate(kinds)]
        shown += ["..."] if row.many else []
        rules = [f"`{each}`: {rule.words}" for each, rule in row.attributes.items()]
        rules += ["its value"] if name in CONSTANTS else []
        opsets = f"{row.opsets.start} to {row.opsets.stop - 1}"
        cells = (name, opsets, ", ".join(shown) or "none", "; ".join(rules).replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_page_shows_the_allow_list_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page.split(BEGIN)[1].split(END)[0]
    assert shown == table(), "python tests/packaging/test_graph_docs.py writes it anew"


def test_the_page_names_each_loss_and_the_bounds_of_opsets() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{kind.value}`" in page for kind in LossKind)
    assert f"opset {OPSETS.start} to {OPSETS.stop - 1}" in page
    assert f"{len(PRIMITIVES)} primitives" in page


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {len(OPERATORS)} operators\n")
