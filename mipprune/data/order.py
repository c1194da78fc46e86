"""The order of an epoch: shuffled, and yet in few chunks at a time.

Files can be read in any order. Shards are read a row group at a time (a *chunk* here), for which a
plain permutation would cost the whole chunk for every image.
"""

from __future__ import annotations

import numpy as np

from mipprune.data.base import Draw, stream


def arrange(chunks: np.ndarray, lanes: int, seed: int, epoch: int) -> np.ndarray:
    """The images of an epoch, (lanes, steps): a column is a batch.

    Chunks are shuffled, and the images within each; a lane goes through consecutive ones. So every
    image of a batch comes from a chunk of its own if there are enough, and each lane has one chunk
    open at a time. A single chunk gives a permutation without structure. At most ``lanes − 1``
    images are left over.

    Parameters
    ----------
    chunks : (chunks,) int array
        Images of each.
    lanes : int
        Images of a global batch.
    seed, epoch : int
    """
    sequence = _shuffled(chunks, seed, epoch)
    steps = len(sequence) // lanes
    return sequence[: lanes * steps].reshape(lanes, steps)


def draw(chunks: np.ndarray, count: int, seed: int, lanes: int = 64) -> np.ndarray:
    """``count`` different images, or all, from about as many chunks as there are ``lanes``."""
    sequence = _shuffled(chunks, seed, 0)
    lanes = min(lanes, len(sequence))
    steps = len(sequence) // lanes
    even, rest = np.split(sequence, [lanes * steps])
    return np.concatenate([even.reshape(lanes, steps).T.ravel(), rest])[:count]


def _shuffled(chunks: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    random = stream(Draw.ORDER, seed, epoch)
    ends = np.cumsum(chunks)
    order = random.permutation(len(chunks))
    return np.concatenate([ends[c] - chunks[c] + random.permutation(chunks[c]) for c in order])
