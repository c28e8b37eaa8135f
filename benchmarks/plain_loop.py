"""MoCo v1 on small images in one plain loop, from the paper and with torch and torchvision alone.

Nothing of the package is in it. `benchmarks.fidelity` trains both and compares their accuracies.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models.resnet import BasicBlock
from torchvision.transforms.functional import to_pil_image

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
DIM = 128


@dataclass(frozen=True)
class Settings:
    """The settings of a run; those of the authors' CIFAR-10 notebook but for width, batch and queue."""

    epochs: int = 10
    batch: int = 128
    groups: int = 8
    queue: int = 1024
    momentum: float = 0.99
    temperature: float = 0.1
    rate: float = 0.06
    decay: float = 5e-4
    width: int = 16
    size: int = 32
    neighbours: int = 50


class SplitNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of each of some groups of the batch (v1, 3.3)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W); running statistics are the mean over the groups."""
        if not self.training:
            return super().forward(x)
        means, variances = ([running.clone() for _ in range(self.groups)] for running in self._running())
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, 0.1, self.eps)
            for part, mean, variance in zip(x.chunk(self.groups), means, variances, strict=True)
        ]
        for running, found in zip(self._running(), (means, variances), strict=True):
            running.copy_(torch.stack(found).mean(0))
        return torch.cat(parts)

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("running_mean"), self.get_buffer("running_var")


class Net(nn.Module):
    """ResNet-18 with a 3x3 stem, and one linear layer behind it (arXiv:1512.03385; v1, 3.3)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        norm = partial(SplitNorm, groups=groups)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), norm(width), nn.ReLU()]
        before = width
        for stage in range(4):
            channels, stride = width * 2**stage, 1 if stage == 0 else 2
            shortcut = None
            if stage:
                shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), norm(channels))
            layers += [
                BasicBlock(before, channels, stride, shortcut, norm_layer=norm),
                BasicBlock(channels, channels, norm_layer=norm),
            ]
            before = channels
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(before, DIM)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> unit vectors (N, 128)."""
        z: Tensor = self.head(self.backbone(x))
        return F.normalize(z)


def train(images: Tensor, settings: Settings, seed: int, look: Callable[[int, nn.Module], None]) -> None:
    """Train on images (n, 3, H, W), bytes; `look` gets the epoch and the backbone before the first and after each."""
    torch.manual_seed(seed)
    f_q = Net(settings.width, settings.groups)
    f_k = copy.deepcopy(f_q).requires_grad_(False)
    queue, place = F.normalize(torch.randn(settings.queue, DIM)), 0
    optimizer = torch.optim.SGD(f_q.parameters(), settings.rate, momentum=0.9, weight_decay=settings.decay)
    make = transforms.Compose([
        transforms.RandomResizedCrop(settings.size), transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), transforms.RandomGrayscale(0.2),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    pictures = [to_pil_image(image) for image in images]
    steps = len(images) // settings.batch
    look(0, f_q.backbone)
    for epoch in range(settings.epochs):
        order = torch.randperm(len(images)).tolist()
        for step in range(steps):
            chosen = [pictures[row] for row in order[step * settings.batch : (step + 1) * settings.batch]]
            x_q, x_k = (torch.stack([make(picture) for picture in chosen]) for _ in range(2))
            share = (epoch * steps + step) / (settings.epochs * steps)
            optimizer.param_groups[0]["lr"] = settings.rate * (1 + math.cos(math.pi * share)) / 2
            shuffle = torch.randperm(len(x_k))
            with torch.no_grad():
                k = torch.empty(len(x_k), DIM)
                k[shuffle] = f_k(x_k[shuffle])
            q = f_q(x_q)
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / settings.temperature
            loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(f_k.parameters(), f_q.parameters(), strict=True):
                    slow.mul_(settings.momentum).add_(fast, alpha=1 - settings.momentum)
            for key in k:
                queue[place] = key
                place = (place + 1) % settings.queue
        look(epoch + 1, f_q.backbone)


@torch.no_grad()
def classify(
    backbone: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], settings: Settings
) -> float:
    """Return the percentage of test images that weighted neighbours among the training images classify right.

    A neighbour's vote weighs exp(similarity / 0.1) (InstDisc, arXiv:1805.01978).
    """
    was, right = backbone.training, 0
    backbone.eval()
    bank = _features(backbone, train[0])
    for query, label in zip(_features(backbone, test[0]), test[1].tolist(), strict=True):
        similarity, row = (bank @ query).topk(settings.neighbours)
        votes = torch.zeros(int(train[1].max()) + 1).index_add_(0, train[1][row], (similarity / 0.1).exp())
        right += int(votes.argmax()) == label
    backbone.train(was)
    return 100 * right / len(test[1])


def _features(backbone: nn.Module, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return torch.cat([F.normalize(backbone((part / 255 - mean) / std)) for part in torch.split(images, 128)])
