"""Weights by name: a run folder, a checkpoint, an encoder file -> an encoder and how its images were normalised."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from moco.core.encoder import Encoder, EncoderPlan, load_encoder_tensors
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
        mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
    except (KeyError, TypeError) as error:
        raise BadInputError(f"{path}: its metadata does not describe an encoder ({error})") from error
    encoder = Encoder(plan)
    if metadata.get("kind") == "checkpoint":
        trained = {name.removeprefix("f_q."): tensor for name, tensor in tensors.items() if name.startswith("f_q.")}
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in trained.items()}
    load_encoder_tensors(encoder, tensors)
    return Weights(encoder, mean, std)


def _in_run(run: Path) -> Path:
    if (run / "encoder.safetensors").is_file():
        return run / "encoder.safetensors"
    newest = newest_checkpoint(run)
    if newest is None:
        raise BadInputError(f"--weights {run}: a folder without encoder.safetensors and without a sound checkpoint")
    return newest[0]
