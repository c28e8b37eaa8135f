"""The peer: MoCo as reference code is written, with PIL images, torchvision's transforms, a DataLoader, and fp32.

Written from the papers (arXiv:1911.05722, Algorithm 1 and 3.3; arXiv:2003.04297) in the manner that is usual, with its
slow parts: one image after the other, a copy of the queue for every step, a loop over the parameters for the momentum
update, batch normalisation in groups by a reshape.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from moco.bench.cases import JPEGS, PATCHES, TRAININGS, VIEWS
from moco.bench.config import BenchConfig
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD

WORKERS, LEAST = 2, 3
GROUPED = "resnet18-3x3-stem-32"
"""The case with batch normalisation in groups, as in the authors' CIFAR-10 notebook."""


class Blur:
    """Gaussian blur with a random sigma."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur an image."""
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


def augmentation(
    name: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Image.Image], Tensor]:
    """The views of v2 or of the authors' CIFAR-10 notebook."""
    colour = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    crop = transforms.RandomResizedCrop(size, scale=(0.08 if name == "cifar" else 0.2, 1.0))
    blur = [] if name == "cifar" else [transforms.RandomApply([Blur()], p=0.5)]
    last = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose([crop, colour, transforms.RandomGrayscale(p=0.2), *blur, *last])


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each image; those in an array become PIL images, files are decoded, when they are asked for."""

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        self.small = values.get("image_size", 224) <= 32
        self.pixels = np.load(folder / PATCHES) if self.small else np.empty(0)
        self.paths = [] if self.small else sorted((folder / JPEGS).iterdir())
        mean, std = values.get("mean", IMAGENET_MEAN), values.get("std", IMAGENET_STD)
        self.view = augmentation(values["augment"], values.get("image_size", 224), mean, std)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pixels) if self.small else len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Two views of an image."""
        image = Image.fromarray(self.pixels[index]) if self.small else Image.open(self.paths[index]).convert("RGB")
        return self.view(image), self.view(image)


class SplitBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over 8 parts of the batch, by counting them as channels."""

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__(channels)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        n, c, h, w = x.shape
        mean, var = self.running_mean.repeat(self.groups), self.running_var.repeat(self.groups)
        parts = x.reshape(n // self.groups, self.groups * c, h, w)
        weight, bias = self.weight.repeat(self.groups), self.bias.repeat(self.groups)
        y = F.batch_norm(parts, mean, var, weight, bias, True, self.momentum, self.eps)
        self.running_mean.copy_(mean.view(self.groups, c).mean(0))
        self.running_var.copy_(var.view(self.groups, c).mean(0))
        return y.reshape(n, c, h, w)


def network(case: str, values: dict[str, Any]) -> nn.Module:
    """Torchvision's ResNet with the head as its classifier."""
    norm = SplitBatchNorm if case == GROUPED else nn.BatchNorm2d
    net = torchvision.models.get_model(values["arch"], num_classes=128, norm_layer=norm)
    if values.get("stem") == "cifar":
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    if values.get("head") == "mlp":
        width = net.fc.in_features
        net.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), net.fc)
    return net


class MoCo(nn.Module):
    """Two encoders and a queue."""

    def __init__(self, case: str, values: dict[str, Any]) -> None:
        super().__init__()
        self.m, self.temperature = values.get("key_momentum", 0.999), values["temperature"]
        self.size = values.get("queue_size", 65536)
        self.encoder_q = network(case, values)
        self.encoder_k = copy.deepcopy(self.encoder_q)
        for parameter in self.encoder_k.parameters():
            parameter.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(128, self.size), dim=0))
        self.pointer = 0

    def forward(self, x_q: Tensor, x_k: Tensor) -> Tensor:
        """The loss of a batch; the key encoder and the queue move on."""
        q = F.normalize(self.encoder_q(x_q), dim=1)
        with torch.no_grad():
            for theta_q, theta_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                theta_k.data = theta_k.data * self.m + theta_q.data * (1 - self.m)
            order = torch.randperm(len(x_k))
            k = F.normalize(self.encoder_k(x_k[order]), dim=1)[torch.argsort(order)]
        l_pos = torch.einsum("nc,nc->n", q, k).unsqueeze(1)
        l_neg = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        logits = torch.cat([l_pos, l_neg], dim=1) / self.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        self.queue[:, self.pointer : self.pointer + len(k)] = k.T
        self.pointer = (self.pointer + len(k)) % self.size
        return loss


def train(case: str, batches: Iterable[Any], seconds: float) -> dict[str, Any]:
    """Images per second of the training loop."""
    model = MoCo(case, TRAININGS[case])
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)

    def step(batch: Any) -> None:
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return timed(step, batches, TRAININGS[case]["batch_size"], seconds)


def timed(step: Callable[[Any], None], batches: Iterable[Any], batch_size: int, seconds: float) -> dict[str, Any]:
    """Images per second of a step on batches, after the first one."""
    batches = iter(batches)
    step(next(batches))
    started, steps, passed = time.perf_counter(), 0, 0.0
    while steps < LEAST or passed < seconds:
        step(next(batches))
        steps, passed = steps + 1, time.perf_counter() - started
    return {"images_per_second": round(steps * batch_size / passed, 2), "steps": steps}


def forever(loader: DataLoader[Any]) -> Iterator[Any]:
    """One epoch after the other."""
    while True:
        yield from loader


def end_to_end(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """The training loop with a DataLoader of two workers."""
    torch.manual_seed(config.seed)
    batch_size = TRAININGS[case]["batch_size"]
    pairs = Pairs(folder, TRAININGS[case])
    loader = DataLoader(
        pairs, batch_size, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )  # fmt: skip
    return train(case, forever(loader), config.seconds)


def step(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """The training loop on one batch that is ready."""
    torch.manual_seed(config.seed)
    batch = next(iter(DataLoader(Pairs(folder, TRAININGS[case]), TRAININGS[case]["batch_size"])))
    return train(case, itertools.repeat(batch), config.seconds)


def views(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Views per second in one process with one thread."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    return views_of(Pairs(folder, VIEWS[case]), config.seconds)


def views_of(pairs: Any, seconds: float) -> dict[str, Any]:
    """Views per second of a data set that gives two of each image, after 16 images of warming up."""
    for index in range(16):
        pairs[index % len(pairs)]
    started, count = time.perf_counter(), 0
    while count < 16 or time.perf_counter() < started + seconds:
        pairs[count % len(pairs)]
        count += 1
    return {"views_per_second_per_core": round(2 * count / (time.perf_counter() - started), 1), "views": 2 * count}
