"""Views are parts of the whole image, or of one of its crops, by epoch."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from moco.data.images import ArrayImages
from moco.data.loader import ViewBatches
from moco.data.parts import CROPS, draw_parts


def test_views_are_parts_of_the_crop_in_turn() -> None:
    """Pixels say where they are from: a view lies in its epoch's window, and is another in the next round."""
    y, x = np.mgrid[:64, :96].astype(np.uint8)
    images = ArrayImages(torch.from_numpy(np.stack([y, x, y])[None].repeat(40, 0)))
    batches = ViewBatches(images, CROPS, 8, (0.0,) * 3, (1.0,) * 3, 40, seed=5, key_views=False, crops=2)
    plain = dataclasses.replace(batches, crops=0)
    sizes, found = np.full((40, 2), (64, 96)), list[Tensor]()
    for epoch in range(6):
        view = batches[epoch]
        top, left, height, width = draw_parts(sizes, 2, seed=5, epoch=epoch, index=view.index.numpy()).T
        assert ((height * width < 64 * 96).all(), (height * width == 64 * 96).all()) == (epoch % 3 > 0, epoch % 3 == 0)
        for channel, first, size in ((0, top, height), (1, left, width)):
            pixels = view.x_q[:, channel].flatten(1) * 255
            assert (pixels.amin(1).numpy() >= first - 0.01).all()
            assert (pixels.amax(1).numpy() <= first + size - 1 + 0.01).all()
        assert torch.equal(view.x_q, plain[epoch].x_q) == (epoch % 3 == 0)
        found.append(view.x_q[view.index.argsort()])
    assert not torch.equal(found[1], found[4])
