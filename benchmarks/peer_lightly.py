"""The peer: MoCo v2 put together from lightly's parts (`pip install lightly`), as its documentation suggests."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
from lightly.transforms import MoCoV2Transform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peer_torchvision import WORKERS, forever, timed, views_of
from moco.bench.cases import JPEGS, PATCHES, TRAININGS
from moco.bench.config import BenchConfig


class Patches(Dataset[tuple[Any, int]]):
    """Small images in memory, as torchvision's CIFAR10 gives them; lightly sets the transform."""

    def __init__(self, folder: Path) -> None:
        self.pixels = np.load(folder / PATCHES)
        self.transform: Any = None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An image's views and its class."""
        return self.transform(Image.fromarray(self.pixels[index])), 0


class MoCo(nn.Module):
    """Backbone and projection head, and their momentum copies."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        net = torchvision.models.get_model(arch)
        width = net.fc.in_features
        self.backbone = nn.Sequential(*list(net.children())[:-1])
        self.head = MoCoProjectionHead(width, width, 128)
        self.backbone_momentum, self.head_momentum = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.head_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Queries."""
        q: Tensor = self.head(self.backbone(x).flatten(start_dim=1))
        return q

    def forward_momentum(self, x: Tensor) -> Tensor:
        """Keys."""
        x, order = batch_shuffle(x)
        k = self.head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()
        return batch_unshuffle(k, order)


def end_to_end(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Images per second of the training loop with a DataLoader of two workers, after its first step."""
    torch.manual_seed(config.seed)
    values = TRAININGS[case]
    transform = MoCoV2Transform(input_size=values["image_size"])
    dataset = LightlyDataset.from_torch_dataset(Patches(folder), transform=transform)
    loader = DataLoader(
        dataset, values["batch_size"], shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )  # fmt: skip
    model = MoCo(values["arch"])
    criterion = NTXentLoss(temperature=values["temperature"], memory_bank_size=(values["queue_size"], 128))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    def step(batch: Any) -> None:
        (x_q, x_k), _, _ = batch
        update_momentum(model.backbone, model.backbone_momentum, m=values["key_momentum"])
        update_momentum(model.head, model.head_momentum, m=values["key_momentum"])
        loss = criterion(model(x_q), model.forward_momentum(x_k))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, forever(loader), values["batch_size"], config.seconds)


def views(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Views per second of JPEG files in one process with one thread."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    dataset = LightlyDataset(str(folder / JPEGS), transform=MoCoV2Transform(input_size=224))
    return views_of(dataset, config.seconds)
