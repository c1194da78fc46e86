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
from PIL import Image, UnidentifiedImageError

from formulations.errors import InputError
from mipprune.data.base import Draw, stream
from mipprune.data.readers import Encoded

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
RESIZED = 256 / 224  # shorter side of a test image to the side of its centre
_ATTEMPTS = 10


class Crop(NamedTuple):
    """A part of an image in its pixels, and whether it is mirrored."""

    left: float
    top: float
    width: float
    height: float
    flip: bool = False


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
            ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.integers(width - w + 1), random.integers(height - h + 1)
                return Crop(int(left), int(top), w, h, flip)
        # a long image: its centre, at the nearest ratio allowed
        w = min(width, round(height * RATIO[1]))
        h = min(height, round(width / RATIO[0]))
        return Crop((width - w) // 2, (height - h) // 2, w, h, flip)

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        """The crop of image ``index``, flipped or not, in size × size pixels."""
        width, height = image.size
        crop = self.draw(index, width, height)
        # a JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves the crop large enough
        wanted = (width * self.size / crop.width, height * self.size / crop.height)
        drafted = image.draft(None, (math.ceil(wanted[0]), math.ceil(wanted[1])))
        scale = drafted[1][2] / width if drafted else 1.0
        left, top, right, bottom = (
            scale * edge
            for edge in (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        )
        # whole pixels first: what lies outside must not be blended into the edges
        outer = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        image = _rgb(image.crop(outer))
        box = (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else image


@dataclass(frozen=True)
class CenterCrop:
    """Test images: the centre of the image, its shorter side ``RESIZED`` times as long."""

    size: int

    def draw(self, index: int, width: int, height: int) -> Crop:
        """The centre, in pixels of the image as it is."""
        (wide, high), (left, top) = self._resized(width, height)
        x, y = width / wide, height / high
        return Crop(left * x, top * y, self.size * x, self.size * y)

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        """The centre of an image, size × size pixels."""
        size, (left, top) = self._resized(*image.size)
        image = _rgb(image).resize(size, Image.Resampling.BILINEAR)
        return image.crop((left, top, left + self.size, top + self.size))

    def _resized(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height after resizing, and the centre's corner in it."""
        short = round(self.size * RESIZED)
        long = int(short * max(width, height) / min(width, height))  # truncated, as torchvision's
        wide, high = (short, long) if width <= height else (long, short)
        return (wide, high), (round((wide - self.size) / 2), round((high - self.size) / 2))


Transform = RandomCrop | CenterCrop


def decode(encoded: Encoded, transform: Transform) -> np.ndarray:
    """The transformed image, (size, size, 3) uint8.

    Raises
    ------
    InputError
        If it is damaged, naming it.
    """
    with open_image(encoded) as image:
        try:
            return np.asarray(transform(image, encoded.number))
        except Exception as error:  # Pillow's decoders raise many kinds, all meaning: damaged
            raise _damaged(encoded, error) from None


def open_image(encoded: Encoded) -> Image.Image:
    """The image, its size known and its pixels not decoded yet. Raises as :func:`decode`."""
    try:
        return Image.open(io.BytesIO(encoded.content))
    except UnidentifiedImageError:  # its text is about the buffer
        raise InputError(f"damaged image {encoded.name}: of no known form") from None
    except Exception as error:
        raise _damaged(encoded, error) from None


def _damaged(encoded: Encoded, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"damaged image {encoded.name}: {reason}")


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
