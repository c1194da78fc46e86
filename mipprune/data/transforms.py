"""Pixels of ImageNet's images: crops at random for training, the centre for tests.

Szegedy et al. 2015 (section 6) for the crop: 8 to 100 % of the area at an aspect ratio of 3/4 to
4/3; He et al. 2016 (section 3.4) for tests: the shorter side to 256, and 224² from the centre. As
torchvision's RandomResizedCrop, RandomHorizontalFlip, Resize and CenterCrop, in Pillow.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from formulations.errors import InputError
from mipprune.data.base import Draw, stream
from mipprune.data.readers import Encoded

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
RESIZED = 256 / 224  # shorter side of a test image to the side of its centre
_ATTEMPTS = 10


class Crop(NamedTuple):
    """Pixels of an image, and whether they are mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


@dataclass(frozen=True)
class RandomCrop:
    """Training images: what an image looks like follows from (seed, epoch, its number) alone."""

    size: int
    seed: int
    epoch: int

    def draw(self, index: int, width: int, height: int) -> Crop:
        """Where to cut image ``index``, of so many pixels."""
        random = stream(Draw.CROP, self.seed, self.epoch, index)
        flip = bool(random.random() < 0.5)
        for _ in range(_ATTEMPTS):
            area = width * height * random.uniform(*AREA)
            ratio = math.exp(random.uniform(*map(math.log, RATIO)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.integers(width - w + 1), random.integers(height - h + 1)
                return Crop(int(left), int(top), w, h, flip)
        # a long image: its centre, at the nearest ratio allowed
        w = min(width, round(height * RATIO[1]))
        h = min(height, round(width / RATIO[0]))
        return Crop((width - w) // 2, (height - h) // 2, w, h, flip)

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        width, height = image.size
        crop = self.draw(index, width, height)
        # a JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves the crop large enough
        wanted = (width * self.size / crop.width, height * self.size / crop.height)
        image.draft(None, tuple(map(math.ceil, wanted)))
        x, y = image.width / width, image.height / height
        right = min((crop.left + crop.width) * x, image.width)  # rounding may have put it above
        bottom = min((crop.top + crop.height) * y, image.height)
        box = (crop.left * x, crop.top * y, right, bottom)
        image = _rgb(image).resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else image


@dataclass(frozen=True)
class CenterCrop:
    """Test images: the centre of the image, its shorter side ``RESIZED`` times as long."""

    size: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        width, height = resized(self.size, *image.size)
        image = _rgb(image).resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


Transform = RandomCrop | CenterCrop


def resized(size: int, width: int, height: int) -> tuple[int, int]:
    """Width and height of a test image before its centre is cut out; the longer side truncated."""
    short = round(size * RESIZED)
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def decode(encoded: Encoded, transform: Transform) -> np.ndarray:
    """The transformed image, (size, size, 3) uint8.

    Raises
    ------
    InputError
        If it is damaged, naming it.
    """
    try:
        with Image.open(io.BytesIO(encoded.content)) as image:
            return np.asarray(transform(image, encoded.index))
    except Exception as error:  # Pillow's decoders raise many kinds, all meaning: damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"damaged image {encoded.name}: {reason}") from None


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
