"""How the curation commands tell what some weights found, and for comparison what random ones found."""

from collections.abc import Mapping
from typing import Any

from moco.curation.page import render_figures
from moco.evaluation.session import say
from moco.interop.published import short_name
from moco.pretraining.health import TO_BEAT


def called(name: str) -> str:
    """Return what people call these weights, or the baseline of this name."""
    return short_name(TO_BEAT.get(name, name))


def say_each(described: Mapping[str, str]) -> None:
    """Tell what was found by the weights, which come first, and for comparison by the baselines."""
    for place, (name, text) in enumerate(described.items()):
        say(f"{'for comparison, ' if place else ''}{called(name)}: {text}")


def compare_figures(figures: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Show the figures of the weights and of the baselines below each other; `columns` maps a key to its heading."""
    return render_figures({called(name): own for name, own in figures.items()}, columns)
