"""`moco pack`: write images as arrays or tar shards."""

import json
import time
from typing import Any

from moco.data.brightness import warn_of_dark
from moco.data.catalog import load
from moco.data.config import PackConfig
from moco.data.decoding import limit_pixels
from moco.data.pack import LOCK, write, write_aside
from moco.data.packed import PACK, VERSION, describe_packed
from moco.data.settling import Asked
from moco.errors import BadInputError
from moco.runtime.fields import check


def run(config: PackConfig) -> dict[str, Any]:
    """`moco pack`: write the images of all splits into a new folder, in their order."""
    check(config)
    if config.image_size is not None and config.format == "shards":
        raise BadInputError("--image-size is for --format arrays: shards hold the files as they are; leave one out")
    started = time.monotonic()
    asked = Asked(config.channels, config.bands, config.no_data)
    with limit_pixels(config.most_pixels), write_aside(config.out) as folder:
        splits = load(config.data, config.exclude, config.white_level, asked)
        written = write(splits, folder, config)
        facts: dict[str, Any] = {"moco_pack": VERSION, "format": written, "splits": list(splits), "data": config.data}
        if written == "arrays":  # shards hold the files as they are, of any depth
            warn_of_dark(next(iter(splits.values())), config.data)
        form = splits["train"].form
        if form is not None and written == "arrays":
            facts["form"] = describe_packed(form)
        (folder / PACK).write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    counts = {split: len(images) for split, images in splits.items()}
    seconds = time.monotonic() - started
    per_split = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{config.out}: {per_split} images as {written}, {size / 1e6:.1f} MB, in {seconds:.1f} s; use it as --data")
    return {"out": str(config.out), "format": written, "images": counts, "bytes": size, "seconds": round(seconds, 3)}
