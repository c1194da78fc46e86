"""Small generated image sets on disk: class folders, and the same images as parquet shards."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("blue", "green", "grey", "red")
_COLOURS = {"blue": (30, 40, 220), "green": (20, 200, 50), "grey": (128,) * 3, "red": (220, 30, 20)}
SPLITS = {"train": 12, "val": 5}


def make_folder(root: Path) -> Path:
    """JPEGs of 40 to 80 pixels a side, coloured by class with noise, 12 and 5 of each class."""
    random = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(40, 81, 2)
                pixels = random.normal(_COLOURS[name], 40, (height, width, 3)).clip(0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(root / split / name / f"{number:02}.jpg", quality=90)
    return root


def make_parquet(root: Path, folder: Path, *, names=True, group=5) -> Path:
    """The images of such a folder in the same order, two shards of each split, as on the Hub."""
    root.mkdir()
    for split, target in (("train", "train"), ("val", "validation")):
        files = sorted((folder / split).glob("*/*.jpg"))
        rows = [
            {
                "image": {"bytes": file.read_bytes(), "path": file.name},
                "label": CLASSES.index(file.parent.name),
            }
            for file in files
        ]
        features = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
        note = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        for shard, part in enumerate((rows[: len(rows) // 2 + 1], rows[len(rows) // 2 + 1 :])):
            table = pa.Table.from_pylist(part).replace_schema_metadata(note if names else None)
            path = root / f"{target}-{shard:05}-of-00002.parquet"
            pq.write_table(table, path, row_group_size=group)
    return root
