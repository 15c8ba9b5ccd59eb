"""Which networks of the corpus are left out of make test for the time that they take."""

from __future__ import annotations

import pytest
from corpus import names

LARGE = ("alexnet", "convnext", "densenet121", "resnet50", "vgg16")
SLOW = ("lstm_text", "mobilenet_v2", "mobilenet_v3_small", "vit")


def marked() -> list[object]:
    """Return the names, with marks for those that take long.

    Of each slow network one export stays in make test. Large ones are `long`, or `nightly`.
    """
    return [pytest.param(each, marks=marks_of(each)) for each in names()]


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a network by the time that it takes."""
    if name.startswith(LARGE):
        return [pytest.mark.long if ".dynamo.train" in name else pytest.mark.nightly]
    return [pytest.mark.long] if name.startswith(SLOW) and not name.endswith(".script.eval") else []
