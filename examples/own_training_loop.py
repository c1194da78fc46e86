"""Pruning in a training loop of one's own: a penalty added to it, a smaller network out of it.

The network is any module of convolutions, linear layers and BatchNorm, and the loop plain PyTorch.
Channels and hidden units are trained towards zero by the regularizer that the pruning MIP's
perspective relaxation projects to; its relaxed indicators say how much each of them is worth, and
an exact budget problem how many of every layer stay. Run it by ``python own_training_loop.py``; it
takes some seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import formulations
from mipprune import GroupPenalty, find_groups, keep_within, prune_groups
from mipprune.structure.cost import count_macs

EPOCHS, FINE_TUNING, BATCH, RATE = 6, 3, 32, 0.05


class SmallNet(nn.Module):
    """Two convolutions, the second with a residual block behind it, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 32, 3, padding=1)
        self.outer = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 4, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, 8, 8) images to (N, 10) logits."""
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.relu(self.second(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.classifier(F.relu(self.hidden(F.max_pool2d(x, 2).flatten(1))))


def train(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    penalty: GroupPenalty | None = None,
) -> None:
    """Train by SGD with momentum; where there is a penalty, its proximal step follows each step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            if penalty is not None:
                penalty.prox_(optimizer.param_groups[0]["lr"])
            schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the images that are classified correctly, in percent."""
    return 100 * float((network.eval()(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Train with the penalty, prune to 40 % of the MACs, fine-tune."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    seen, test = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    network = SmallNet()

    # ---- what pruning adds to the loop ------------------------------------------------------
    groups = find_groups(network, images[:8])
    term = formulations.square(0.002, 0.002)  # 0.002·‖w‖² + 0.002·y for every group
    penalty = GroupPenalty(network, groups, term)
    train(network, *seen, EPOCHS, penalty)  # with penalty.prox_(lr) behind optimizer.step()
    kept = keep_within(network, groups, penalty.keep_scores(), macs=0.4)
    small = prune_groups(network, groups, kept)
    # -----------------------------------------------------------------------------------------

    shape = images.shape[1:]
    print(f"trained   {accuracy(network, *test):5.1f} %  {count_macs(network, shape):9,} MACs")
    print(f"pruned    {accuracy(small, *test):5.1f} %  {count_macs(small, shape):9,} MACs")
    train(small, *seen, FINE_TUNING)
    print(f"fine-tuned{accuracy(small, *test):6.1f} %  {count_macs(small, shape):9,} MACs")
    print("kept of every layer:", groups.kept_per_layer(kept))


if __name__ == "__main__":
    main()
