"""What the explorer shows of one encoder: computed once, of these weights and images only."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.fingerprint import digest_images
from moco.data.images import Images
from moco.evaluation.config import EmbedConfig
from moco.evaluation.features import encode
from moco.evaluation.session import Subject, session
from moco.explore import embed_run as module
from moco.explore.embed_run import FILE, Scope, clusters, embed_run

SCOPE = Scope(0.1, 5)


@pytest.fixture
def images() -> Images:
    """Some digits."""
    return take_evenly(load("digits")["train"], 80)


@pytest.fixture
def subject(tiny_run: Path) -> Subject:
    """A run's encoder."""
    with session(EmbedConfig(str(tiny_run), "digits", tiny_run, device="cpu", threads=1)) as found:
        return found


def test_it_is_computed_once(subject: Subject, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are those of `encode`, of unit length; other clusters take them over; other images or weights do not."""
    first = embed_run(tmp_path, subject, images, "these", SCOPE, "run")
    z = torch.nn.functional.normalize(encode(subject.encoder, images, subject.how))
    assert first.features == pytest.approx(z.numpy(), abs=1e-6)
    assert 0 <= first.places.min() < first.places.max() <= 1
    calls = []

    def counted(*arguments: object, **named: object) -> torch.Tensor:
        calls.append(named)
        return encode(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode", counted)
    again = embed_run(tmp_path, subject, images, "these", SCOPE, "run")
    assert (again.places == first.places).all()
    assert (again.clusters == first.clusters).all()
    assert again.method == first.method
    fewer = embed_run(tmp_path, subject, images, "these", Scope(0.1, 2), "run")
    assert set(fewer.clusters.tolist()) == {0, 1}
    assert (fewer.features == first.features).all()
    assert not calls
    embed_run(tmp_path, subject, images, "others", SCOPE, "run")
    assert len(calls) == 1
    with torch.no_grad():
        next(subject.encoder.backbone.parameters()).mul_(1.5)
    embed_run(tmp_path, subject, images, "others", SCOPE, "run")
    assert len(calls) == 2
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-9])
    embed_run(tmp_path, subject, images, "others", SCOPE, "run")
    assert len(calls) == 3


def test_the_digest_is_of_the_images(images: Images) -> None:
    """Other names or pixels are other images."""
    whole = load("digits")
    assert digest_images(whole["train"]) == digest_images(load("digits")["train"])
    assert digest_images(whole["train"]) != digest_images(whole["test"])


def test_clusters_are_found_and_numbered_from_the_largest() -> None:
    """Blobs of 90, 60 and 30 points."""
    truth = np.repeat([0, 1, 2], [30, 90, 60])
    z = 10 * np.eye(3, 16)[truth] + np.random.default_rng(0).normal(size=(180, 16))
    found = clusters(z, 3)
    assert len(set(zip(truth.tolist(), found.tolist(), strict=True))) == 3
    assert np.bincount(found).tolist() == [90, 60, 30]
    assert clusters(np.ones((5, 4)), 3).tolist() == [0] * 5
