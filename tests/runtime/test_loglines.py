"""One line for a person: what matters of a step, never longer than 120 characters."""

import pytest

from moco.runtime.loglines import LONGEST, describe_bar, describe_finished, describe_look, describe_step

VALUES = {
    "epoch": 1.93, "loss": 4.582, "chance_loss": 4.852, "contrast_accuracy": 5.273, "lr": 5e-4, "gradient_norm": 2.56,
    "images_per_second": 362.4, "waiting_for_data": 12.4,
}  # fmt: skip


def test_a_step_of_pre_training() -> None:
    """Step, epoch, loss beside chance, accuracy, speed, time left, waiting for data; nothing else."""
    assert describe_step(16, 2000, VALUES, 83.4) == (
        "step 16/2000  epoch 1.93  loss 4.582 (chance 4.85)  accuracy 5.3%  362 images/s  0:01:23 left  data wait 12%"
    )
    assert describe_bar(VALUES) == "epoch 1.93  loss 4.582 (chance 4.85)  accuracy 5.3%  362 images/s  data wait 12%"


def test_a_step_of_another_training() -> None:
    """A detector's loss has no chance, and its many parts stay in the file."""
    values = {"epoch": 0.5, "loss": 1.25, "loss_box": 1.0, "images_per_second": 1.234, "waiting_for_data": 0.0}
    said = "step 2/9  epoch 0.50  loss 1.250  1.234 images/s  data wait 0%"
    assert describe_step(2, 9, values, None) == said
    assert describe_step(2, 9, values, float("inf")) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"knn_top1": 63.21, "knn_top5": 100.0, "knn_k": 20.0, "knn_pixels": 55.66},
         "step 8/9  kNN accuracy 63.2%  raw pixels 55.7%"),
        ({"knn_top1": 63.21, "judged_top1": 62.0}, "step 8/9  kNN accuracy 63.2%  all monitored images 62.0%"),
        ({"judged_top1": 98.5, "alignment": 0.5}, "step 8/9  retrieval 98.5%"),
        ({"alignment": 0.51234, "uniformity": -1.5}, "step 8/9  alignment 0.5123  uniformity -1.5"),
        ({"alignment": 0.5, "retrieval": 98.5, "retrieval_images": 60.0}, "step 8/9  alignment 0.5  retrieval 98.5%"),
        ({"AP": 31.25, "AP50": 51.0}, "step 8/9  AP 31.25  AP50 51"),
        ({}, "step 8/9"),
    ],
)  # fmt: skip
def test_an_evaluation_in_the_middle(values: dict[str, float], said: str) -> None:
    """Accuracies by their names; other figures as they are called."""
    assert describe_look(8, 9, values) == said


def test_a_finished_run_is_described_in_words() -> None:
    """No name of a record is there, and what is no number is left out."""
    assert describe_finished({"step": 9, "loss": 3.49234, "knn_top1": 86.014, "uniformity": None}) == (
        "loss 3.492, kNN accuracy 86.0%"
    )
    assert describe_finished({"AP50": 12.0}) == "AP50 12"


def test_no_line_is_longer_than_it_may_be() -> None:
    """What has no room is left out from the end."""
    large = dict.fromkeys(VALUES, 123456789.0)
    steps = 10**9
    for line in (
        describe_step(steps, steps, large, 1e9),
        describe_look(steps, steps, {f"figure_{number}": 1.0 for number in range(99)}),
        describe_look(steps, steps, {"x" * 999: 1.0}),
    ):
        assert line.startswith(f"step {steps}/{steps}")
        assert len(line) <= LONGEST
