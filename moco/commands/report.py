"""`moco report`: computes the missing parts of the page (views, neighbours, map), and writes it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.report.config import ReportConfig
from moco.report.page import page
from moco.report.runs import GALLERY, distinct_names, read_config, read_run
from moco.report.transfer import is_transfer
from moco.runtime.fields import check
from moco.runtime.files import replace_file, require_file_name
from moco.runtime.records import read_object


def run(config: ReportConfig) -> dict[str, Any]:
    """Write one page on all runs, and say where it is."""
    if not config.runs:
        raise BadInputError("no run is given: moco report RUN, or several of them")
    check(config)
    for folder in config.runs:
        read_run(folder)  # report a mistake in the last name before the first is worked on
    out = config.out or config.runs[0] / "report.html"
    if not out.parent.is_dir():
        raise BadInputError(f"{out}: cannot be written (no such folder): give --out")
    require_file_name("--out", out)
    folders = [part for folder in config.runs for part in (folder, *_trials(folder))]
    runs = distinct_names([read_run(folder, _complete(folder, config)) for folder in folders])
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    content = page(runs, f"Made by momentum-contrast {version('momentum-contrast')} on {made}.")
    _write(out, content)
    for run in runs:
        for note in run.notes:
            print(f"{run.name}: {note}")
    size = len(content.encode("utf-8"))
    print(f"the report is {out} ({size / 1e6:.2f} MB): open it in any browser")
    return {"report": str(out), "bytes": size, "runs": [run.name for run in runs]}


def _complete(folder: Path, config: ReportConfig) -> tuple[str, ...]:
    """Compute a run's gallery where there is none of these weights and images; what is left out, and why."""
    if not config.gallery or is_transfer(read_run(folder)):
        return ()
    try:
        return _compute(folder, config, print)
    except BadInputError as error:
        if config.data is not None:
            raise
        return (f"views, neighbours and map are left out: {error}",)


def _trials(folder: Path) -> list[Path]:
    """The trials of a run of `moco transfer` that has several."""
    return [path for path in sorted(folder.glob("trial-[0-9]*")) if (path / "config.json").is_file()]


def _compute(folder: Path, config: ReportConfig, say: Callable[[str], None]) -> tuple[str, ...]:
    from moco.core.networks import reads_bytes
    from moco.data.catalog import load
    from moco.data.decoding import limit_pixels
    from moco.data.forms import with_shown
    from moco.evaluation.features import Encoding
    from moco.explore.gallery import Scope, file_digest, gallery, is_here
    from moco.interop.checkpoints import load_weights
    from moco.runtime.device import preserve_torch_state, resolve_device, resolve_precision, set_threads
    from moco.runtime.fields import require

    weights_file = folder / "encoder.safetensors"
    if not weights_file.is_file():
        raise BadInputError("the run has not written an encoder.safetensors yet")
    path = folder / "evaluations" / f"{GALLERY}.json"
    trained = read_config(read_run(folder).config, folder / "config.json")
    data = config.data or trained.data
    key = {"weights": file_digest(weights_file), "data": data, "map_images": config.map_images}
    key |= {"show_channels": list(config.show_channels)} if config.show_channels else {}
    if _stored(path) == key:
        return ()
    if reads_bytes(require(trained.arch)):
        raise BadInputError("they show images, and this run learned from documents")
    if config.data is None and not is_here(data):
        raise BadInputError(f"its images ({data}) are no longer there: give --data")
    say(f"{folder}: computing views, neighbours and map of {data}")
    device = resolve_device(config.device)
    weights = load_weights(str(folder), "")
    how = Encoding(
        weights.encoder.plan.image_size,
        weights.mean,
        weights.std,
        precision=resolve_precision("auto", device),
        rgb=weights.form is None,
    )
    scope = Scope(config.map_images, map_seconds=config.map_seconds)
    with preserve_torch_state(device), limit_pixels(trained.most_pixels):
        splits = load(data, trained.exclude, weights.white_level, with_shown(weights.form, config.show_channels))
        set_threads(config.threads)
        content = gallery(weights.encoder.to(device), splits, trained, how, scope)
    _write(path, json.dumps({**content, "of": {**key, "map_images": config.map_images}}) + "\n")
    return ()


def _stored(path: Path) -> dict[str, Any]:
    """What an earlier gallery was computed of; empty where there is none."""
    try:
        of = read_object(path)["of"]
    except (OSError, BadInputError, KeyError):
        return {}
    return of if isinstance(of, dict) else {}


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written ({error.strerror}): give --out") from error
