"""Pruning a trained network without training, with a proof of how good the choice is.

The network is any module of convolutions, linear layers and BatchNorm; some hundred images, without
labels, are all that is needed. Which channels go is decided by exact layer problems, their numbers
by an exact budget problem, and what is left is refitted layer by layer to do what the whole network
did. Run it by ``python prune_without_training.py``; it takes some ten seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from mipprune import certify, prune

EPOCHS, BATCH, RATE = 8, 32, 0.05


def small_network() -> nn.Module:
    """Three convolutions and a linear layer, for (N, 1, 8, 8) images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)),
    )


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train by SGD with momentum: what the user of a trained network has done before."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)
    network.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the images that are classified correctly, in percent."""
    return 100 * float((network.eval()(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Train, prune to half of the MACs, certify."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    test = images[1400:], labels[1400:]
    network = small_network()
    train(network, images[:1400], labels[:1400])

    result = prune(network, images[:500], budget={"macs": 0.5}, gap=0.05, jobs=1)
    rows = certify(result, images[500:1000], gap=0.05, jobs=1)
    result.save("half")

    print(f"dense          {accuracy(result.dense, *test):5.1f} %  {result.macs.before:9,} MACs")
    print(f"channels gone  {accuracy(result.removed, *test):5.1f} %  {result.macs.after:9,} MACs")
    print(f"and refitted   {accuracy(result.network, *test):5.1f} %  {result.macs.after:9,} MACs")
    for row in rows:
        print(
            f"layer {row.layer:3} keeps {row.kept} of {row.groups} inputs: error "
            f"{row.error:.2%}, no choice of as many is below {row.bound:.2%} ({row.status})"
        )


if __name__ == "__main__":
    main()
