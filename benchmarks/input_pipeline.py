"""Images a second of the streamed input pipeline alone: read, decode, crop, batch, normalise.

Generated JPEGs of 500 × 375 pixels, ImageNet's usual size, as class folders and as parquet shards;
training crops of 224 × 224. All ways are measured one after the other in every round, so that they
meet the same machine; the table gives medians. Beside the images a second stands the processor time
of one image, of this process and its workers, which other work on the machine hardly changes. Files
come from the page cache: this is about the processor, not about the disk.

    python benchmarks/input_pipeline.py [--images 768] [--workers 0 1 2] [--rounds 5] [--record]
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from environment import environment
from PIL import Image, features

from mipprune.data.registry import Data, load
from mipprune.distributed.device import pick_device
from mipprune.runs.files import write_json

WIDTH, HEIGHT, QUALITY, CLASSES, ROW_GROUP = 500, 375, 90, 8, 100
_OCTAVES = (3, 6, 12, 25, 50, 100, 200)


def main() -> None:
    """Measure and print; with --record also store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--decoder", choices=["pillow", "dali"], default="pillow")
    parser.add_argument(
        "--record", action="store_true", help="write benchmarks/results/input-pipeline.json"
    )
    given = parser.parse_args()
    device = pick_device(given.device)
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as root:
        size = generate(Path(root), given.images)
        ways = {
            (form, workers): load(
                "images", f"{root}/{form}", device, workers=workers, decoder=given.decoder
            )
            for form in ("folder", "parquet")
            for workers in given.workers
        }
        seconds: dict[tuple, list[tuple[float, float]]] = {way: [] for way in ways}
        for number in range(given.rounds):
            for way, data in ways.items():
                seconds[way].append(epoch(data, given.batch, number))
    rows = []
    for (form, workers), times in seconds.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(
            {
                "form": form,
                "workers": workers,
                "images_per_s": given.images / wall,
                "processor_ms": 1e3 * processor / given.images,
            }
        )
        print(
            f"{form:8} {workers} workers  {given.images / wall:6.0f} images/s  "
            f"{1e3 * processor / given.images:.2f} ms of processor time an image"
        )
    if given.record:
        measured = {
            "images": given.images,
            "bytes_per_image": size / given.images,
            "batch": given.batch,
            "rounds": given.rounds,
            "device": device.type,
            "load_average": load_average,  # before: what else the machine was doing
            "decoder": given.decoder,
            "pillow": Image.__version__,
            "libjpeg_turbo": features.check("libjpeg_turbo"),
            "rows": rows,
        }
        write_json(
            Path("benchmarks/results/input-pipeline.json"),
            {"environment": environment(), "result": measured},
        )


def epoch(data: Data, batch: int, number: int) -> tuple[float, float]:
    """Seconds of an epoch with the start of its workers, and of processor time."""
    start, used = time.perf_counter(), sum(os.times()[:4])
    for images, _ in data.train_batches(batch, 0, number):
        last = images
    if last.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, sum(os.times()[:4]) - used  # with workers that ended


def generate(root: Path, count: int) -> int:
    """Write ``folder`` and ``parquet`` with the same images; their bytes in all."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(count):
        label = index % CLASSES
        content = jpeg(random)
        rows.append({"image": {"bytes": content, "path": f"{index}.jpg"}, "label": label})
        file = root / "folder/train" / str(label) / f"{index:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if index < CLASSES:
            file = root / "folder/val" / str(label) / "0.jpg"
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
    (root / "parquet").mkdir()
    for split, part in (("train", rows), ("validation", rows[:CLASSES])):
        path = root / "parquet" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(part), path, row_group_size=ROW_GROUP)
    return sum(len(row["image"]["bytes"]) for row in rows)


def jpeg(random: np.random.Generator) -> bytes:
    """Noise of all scales, as much in each octave, as in photographs."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells in _OCTAVES:
        noise = random.normal(
            0, 60 / np.sqrt(len(_OCTAVES)), (cells * HEIGHT // WIDTH + 1, cells, 3)
        )
        channels = [
            Image.fromarray(noise[..., c].astype(np.float32)).resize((WIDTH, HEIGHT), 3)
            for c in range(3)
        ]
        pixels += np.stack([np.asarray(channel) for channel in channels], 2)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    main()
