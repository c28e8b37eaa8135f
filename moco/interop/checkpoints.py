"""Weights by name: a run folder, a checkpoint, an encoder file -> an encoder and how its images were normalised."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from moco.core.encoder import Encoder, EncoderPlan, filled_encoder
from moco.errors import BadInputError
from moco.runtime.checkpoint import Metadata, load_tensors, newest_checkpoint


@dataclass(frozen=True)
class Weights:
    """An encoder, and what images must look like for it."""

    encoder: Encoder
    mean: tuple[float, ...]
    std: tuple[float, ...]


def encoder_metadata(plan: EncoderPlan, mean: tuple[float, ...], std: tuple[float, ...], step: int) -> Metadata:
    """What is stored beside an encoder's weights."""
    return {"encoder": dataclasses.asdict(plan), "mean": list(mean), "std": list(std), "step": step}


def random_weights(plan: EncoderPlan, seed: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Weights:
    """The encoder that a run of that seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Weights(Encoder(plan), mean, std)


def load_weights(weights: str) -> Weights:
    """Read an encoder (f_q) from a run, a checkpoint or an encoder.safetensors.

    Raises BadInputError where there is none, where it is damaged, or where it does not fit its own description.
    """
    path = Path(weights)
    if path.is_dir():
        path = _in_run(path)
    if not path.is_file():
        raise BadInputError(
            f"--weights {weights}: no such run or file, expected a run folder, a checkpoint, an encoder.safetensors or "
            f"random"
        )
    tensors, metadata = load_tensors(path)
    try:
        plan = EncoderPlan(**metadata["encoder"])
        mean, std = _colours(metadata["mean"]), _colours(metadata["std"])
    except (BadInputError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: its metadata does not describe an encoder ({error})") from error
    if metadata.get("kind") == "checkpoint":
        trained = {name.removeprefix("f_q."): tensor for name, tensor in tensors.items() if name.startswith("f_q.")}
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in trained.items()}
    return Weights(filled_encoder(plan, tensors), mean, std)


def _colours(values: object) -> tuple[float, ...]:
    """A number for each of red, green and blue."""
    if not isinstance(values, list) or len(values) != 3 or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{values!r}, expected three numbers")
    return tuple(float(value) for value in values)


def _in_run(run: Path) -> Path:
    if (run / "encoder.safetensors").is_file():
        return run / "encoder.safetensors"
    newest = newest_checkpoint(run)
    if newest is None:
        raise BadInputError(f"--weights {run}: a folder without encoder.safetensors and without a sound checkpoint")
    return newest[0]
