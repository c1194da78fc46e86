"""ResNet-20 on CIFAR-10 from trained weights, 60 % of the MACs kept, five epochs in all.

    python benchmarks/cifar10_resnet20.py WEIGHTS [DATA] [--record]

WEIGHTS is the published resnet20 as .safetensors; DATA a folder of parquet files instead of the
Hub. With --record the result goes to benchmarks/results/cifar10-resnet20.json.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from environment import environment

from mipprune.checkpoint import write_json
from mipprune.config import Config, configure, read_recipe
from mipprune.engine import train
from mipprune.report.tables import print_result


def main() -> None:
    """Train, print the table."""
    words = [word for word in sys.argv[1:] if word != "--record"]
    if not 1 <= len(words) <= 2:
        sys.exit(__doc__)
    overrides = [f"init={words[0]}", "budget.macs=0.6", "name=benchmark-cifar10-resnet20"]
    overrides += [f"data.path={words[1]}"] if len(words) == 2 else []
    config = configure(Config, read_recipe("cifar10-resnet20-spr"), overrides)
    shutil.rmtree(Path(config.runs) / config.name, ignore_errors=True)
    result = train(config)
    print_result(result)
    if "--record" in sys.argv:
        record = {"environment": environment(), "result": result}
        record["environment"]["command"] = "python benchmarks/cifar10_resnet20.py WEIGHTS"
        write_json(Path("benchmarks/results/cifar10-resnet20.json"), record)


if __name__ == "__main__":
    main()
