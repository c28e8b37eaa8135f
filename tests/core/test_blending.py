"""Mixed views: each pixel by hand from what the function says of itself, over many draws."""

import numpy as np
import pytest
import torch

from moco.core.blending import Blend, blend_views

N, SIDE = 6, 12


def numbered() -> torch.Tensor:
    """Views whose every pixel is the number of its view, so that a pixel says whose it is."""
    return torch.arange(1.0, N + 1).view(N, 1, 1, 1).expand(N, 3, SIDE, SIDE).contiguous()


def draws(count: int = 200) -> list[Blend]:
    """Many draws."""
    return [blend_views(numbered(), seed=3, step=step, place=0) for step in range(count)]


def is_cut(blend: Blend) -> bool:
    """CutMix leaves every pixel whole."""
    return bool((blend.views == blend.views.round()).all())


def test_the_partners_are_a_permutation() -> None:
    """Every view is a partner once."""
    for blend in draws(20):
        assert sorted(blend.partner.tolist()) == list(range(N))


def test_each_view_keeps_its_share() -> None:
    """The mean over a view's pixels is a i + (1 - a) j, for both kinds."""
    for blend in draws():
        own, other = torch.arange(1.0, N + 1), blend.partner + 1.0
        torch.testing.assert_close(blend.views.mean((1, 2, 3)), blend.own * own + (1 - blend.own) * other)


def test_cutmix_puts_one_square_of_the_partner_in_the_same_place_of_every_view() -> None:
    """The foreign pixels fill their bounding box, which is a square."""
    cut = [blend for blend in draws() if is_cut(blend)]
    assert len(cut) > 50
    for blend in cut:
        i = next((i for i in range(N) if int(blend.partner[i]) != i), None)
        if i is None or blend.own == 1:
            continue
        foreign = (blend.views[i, 0] == float(blend.partner[i]) + 1).numpy()
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert rows[-1] - rows[0] == columns[-1] - columns[0]


def test_both_kinds_come_equally_often_with_the_stated_distributions() -> None:
    """The share is uniform for CutMix, and from Beta(1/2, 1/2) for mixup."""
    found = draws(600)
    cut = [blend.own for blend in found if is_cut(blend)]
    mixed = [blend.own for blend in found if not is_cut(blend)]
    assert len(cut) == pytest.approx(300, abs=60)
    assert np.mean(cut) == pytest.approx(0.5, abs=0.06)
    assert np.var(cut) == pytest.approx(1 / 12, abs=0.02)  # uniform
    assert np.var(mixed) == pytest.approx(1 / 8, abs=0.03)  # Beta(1/2, 1/2)


def test_a_draw_is_a_function_of_seed_step_and_place() -> None:
    """Nothing is drawn from a state, and the memory format stays."""
    x = torch.randn(N, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    first = blend_views(x, seed=1, step=2, place=3)
    again = blend_views(x, seed=1, step=2, place=3)
    assert torch.equal(first.views, again.views)
    assert first.own == again.own
    assert first.views.is_contiguous(memory_format=torch.channels_last)
    others = [blend_views(x, seed=seed, step=step, place=place).own for seed, step, place in
              ((2, 2, 3), (1, 3, 3), (1, 2, 4))]  # fmt: skip
    assert len({first.own, *others}) == 4
