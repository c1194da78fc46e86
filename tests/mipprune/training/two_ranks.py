"""Train in float64, so that the order of sums over ranks shows in the last digits only.

torchrun --nproc-per-node 2 two_ranks.py '["RECIPE", "KEY=VALUE", …]' …

One run after another, so that the processes are started once.
"""

import json
import sys

import torch

from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.training.run import train

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for run in sys.argv[1:]:
        recipe, *words = json.loads(run)
        train(configure(Config, read_recipe(recipe), words))
