"""`moco check`: read every image of a set, and list those that cannot be read."""

import csv
import io
from typing import Any

from moco.data.catalog import load
from moco.data.config import CheckConfig
from moco.data.decoding import limit_pixels
from moco.data.settling import Asked
from moco.data.unreadable import find_unreadable
from moco.errors import counted, one_line
from moco.runtime.device import cores
from moco.runtime.fields import check
from moco.runtime.files import replace_file, require_file_name

MOST_PRINTED = 20
COLUMNS = ("split", "path", "reason")


def run(config: CheckConfig) -> dict[str, Any]:
    """`moco check`: decode the images of all splits; print, return and write those that cannot be read, and why."""
    check(config)
    if config.out is not None:
        require_file_name("--out", config.out)
    asked = Asked(config.channels, config.bands, config.no_data, alike=False)
    with limit_pixels(config.most_pixels):
        splits = load(config.data, config.exclude, form=asked)
        found = [
            dict(zip(COLUMNS, (split, images.name(index), reason), strict=True))
            for split, images in splits.items()
            for index, reason in find_unreadable(images, config.workers or cores(), f"reading {len(images)} of {split}")
        ]
    count = sum(map(len, splits.values()))
    for one in found[:MOST_PRINTED]:
        print(one_line(f"{one['split']}: {one['path']}: {one['reason']}"))
    more = f" (the first {MOST_PRINTED} above)" if len(found) > MOST_PRINTED else ""
    print(f"{counted(count, 'image')} checked, {len(found)} cannot be read{more}")
    if config.out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        replace_file(config.out, text.getvalue().encode("utf-8", "surrogateescape"))
        print(f"{config.out}: {'the full list, with reasons' if found else 'the list, which is empty'}")
    return {"data": config.data, "images": count, "unreadable": found}
