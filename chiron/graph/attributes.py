"""Attribute rules: type, range and default of each attribute a guest's node may carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import AttributeProto

from chiron.graph.errors import AdmissionError, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx import NodeProto

    from chiron.graph.admitted import AttributeValue

MAX_WINDOW = 64  # kernel sizes, strides, pads, dilations
MAX_GROUPS = 4096
MAX_ATTRIBUTES = 16
MAX_LIST = 16
_Wire = int | float | bytes | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute's rule.

    Args:
        holds: whether a value of the right type is admitted.
        words: the rule in words, for the refusal.
        default: ONNX's default, put in where the guest leaves the attribute out (None: there is none).
        required: whether it must be there.
        written: whether the rebuilt node carries it. Where one value alone is admitted and is the default,
            leaving it out says the same at every opset.
    """

    holds: Callable[[_Wire], bool]
    words: str
    default: AttributeValue | None = None
    required: bool = False
    written: bool = True


def fixed(value: float | bytes | tuple[int, ...]) -> Attribute:
    """Admit one value only: ONNX's default."""
    return Attribute(
        lambda given: type(given) is type(value) and given == value, f"{value!r} or left out", written=False
    )


def choice(*values: int) -> Attribute:
    """Admit one of these; the first is the default."""
    return Attribute(
        lambda given: type(given) is int and given in values, f"one of {list(values)}", default=values[0]
    )


def integer(low: int, high: int) -> Attribute:
    """Admit an integer from low (the default) to high."""
    return Attribute(
        lambda given: type(given) is int and low <= given <= high,
        f"an integer from {low} to {high}",
        default=low,
    )


def number(low: float, high: float, *, default: float) -> Attribute:
    """Admit a float from low to high (so neither NaN nor infinity)."""
    return Attribute(
        lambda given: type(given) is float and low <= given <= high,
        f"a number from {low} to {high}",
        default=default,
    )


def integers(low: int, *, high: int = MAX_WINDOW, required: bool = False) -> Attribute:
    """Admit a short list of integers from low to high; left out, the layer fills it."""

    def holds(given: _Wire) -> bool:
        return (
            isinstance(given, tuple)
            and 0 < len(given) <= MAX_LIST
            and all(type(v) is int and low <= v <= high for v in given)
        )

    return Attribute(holds, f"1 to {MAX_LIST} integers from {low} to {high}", required=required)


def word(*choices: str) -> Attribute:
    """Admit one of these words; the first is the default."""
    return Attribute(
        lambda given: isinstance(given, bytes) and given.decode("ascii", "replace") in choices,
        f"one of {list(choices)}",
        default=choices[0],
    )


def any_integer(default: int | None = None, *, required: bool = False) -> Attribute:
    """Admit an integer of 32 bits."""
    return Attribute(
        lambda given: type(given) is int and abs(given) < 1 << 31,
        "an integer of 32 bits",
        default=default,
        required=required,
    )


def ignored() -> Attribute:
    """Admit anything: what it says does not matter here."""
    return Attribute(lambda _: True, "anything", written=False)


def check_attributes(proto: NodeProto, rules: Mapping[str, Attribute]) -> dict[str, AttributeValue]:
    """Return a node's attributes, complete with defaults; those that go without saying are left out.

    Raises:
        AdmissionError: one is unknown, given twice, missing, of another type or out of range.
    """
    if len(proto.attribute) > MAX_ATTRIBUTES:
        raise AdmissionError(Rule.ATTRIBUTE, f"it has over {MAX_ATTRIBUTES} attributes: remove some")
    given: dict[str, _Wire] = {}
    for attribute in proto.attribute:
        name = attribute.name
        rule = rules.get(name)
        if rule is None:
            raise AdmissionError(Rule.ATTRIBUTE, f"attribute {name[:40]!r} is not admitted: leave it out")
        if name in given:
            raise AdmissionError(Rule.ATTRIBUTE, f"attribute {name!r} is given twice: give it once")
        given[name] = _value(attribute)
        if not rule.holds(given[name]):
            raise AdmissionError(Rule.ATTRIBUTE, f"attribute {name!r} must be {rule.words}")
    return _completed(given, rules)


def _completed(given: Mapping[str, _Wire], rules: Mapping[str, Attribute]) -> dict[str, AttributeValue]:
    checked: dict[str, AttributeValue] = {}
    for name, rule in rules.items():
        if rule.required and name not in given:
            raise AdmissionError(Rule.ATTRIBUTE, f"attribute {name!r} is needed: give {rule.words}")
        value = given.get(name, rule.default)
        if not rule.written or value is None:
            continue
        if isinstance(value, tuple):
            checked[name] = tuple(int(each) for each in value)  # no rule admits a list of other numbers
        else:
            checked[name] = value.decode("ascii") if isinstance(value, bytes) else value
    return checked


def _value(attribute: AttributeProto) -> _Wire:
    if attribute.ref_attr_name:
        raise AdmissionError(Rule.FEATURE, f"attribute {attribute.name!r} refers to a function's: inline it")
    match attribute.type:
        case AttributeProto.INT:
            return int(attribute.i)
        case AttributeProto.FLOAT:
            return float(attribute.f)
        case AttributeProto.STRING:
            return bytes(attribute.s)
        case AttributeProto.FLOATS:
            return tuple(attribute.floats)
        case AttributeProto.INTS:
            return tuple(attribute.ints)
        case AttributeProto.GRAPH | AttributeProto.GRAPHS:
            raise AdmissionError(Rule.FEATURE, f"attribute {attribute.name!r} is a subgraph: unroll it")
        case _:
            raise AdmissionError(
                Rule.ATTRIBUTE, f"attribute {attribute.name!r} is of a type that no operator here takes"
            )
