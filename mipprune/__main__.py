"""``python -m mipprune``, and so ``torchrun … -m mipprune``."""

from mipprune.cli import main

main()
