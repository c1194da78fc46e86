"""The training side of mipprune: pruned networks from the terms of :mod:`formulations`.

``mipprune.train(config)`` is the command line's verb; it is loaded on first use.
"""

__all__ = ["train"]


def __getattr__(name: str):
    if name == "train":
        from mipprune.training.run import train

        return train
    raise AttributeError(f"module 'mipprune' has no attribute {name!r}")
