"""The curves of one or several runs: loss, kNN, learning rate, throughput."""

from collections.abc import Sequence

from moco.report.charts import Axes, Curve, Level, chart
from moco.report.runs import Run

CHANCE_NOTE = (
    "The dashed line is the loss of guessing. The loss may rise at first, while the dictionary fills. Do not compare "
    "losses of different K or temperature."
)
KNN_NOTE = (
    "Share of the monitor's images whose nearest neighbours vote for the right class. These images are the validation "
    "split or, without one, a tenth of the training images, which the run trains on without their labels. The first "
    "point is the network before its first step."
)
CONTRAST_NOTE = (
    "How often the right key is the most similar one. It does not measure how good the features are, and close to 100% "
    "it is suspicious."
)
EFFECTIVE_NOTE = (
    "How many negatives push a query: exp of the entropy of their weights in the gradient. If it is far below K, most "
    "negatives are too easy to teach anything."
)
HARDEST_NOTE = "Share of the gradient that comes from the hardest hundredth of the negatives; 1% if all are equal."
FALSE_NOTE = (
    "Negatives of the query's own class, by number and by their weight in the gradient: the loss pushes away what "
    "should be near. The labels serve only for this figure and are never trained on."
)
AGE_NOTE = (
    "Cosine between a stored key and the same view encoded now, at the last evaluation. If it falls with age, the "
    "dictionary is not consistent: give a --key-momentum nearer to 1, or a smaller --queue-size."
)
AGES = 4
"""Groups of keys by age (`evaluation.vitals`)."""


def render_loss(run: Run) -> str:
    """Render the loss of a run as a small chart for the top of its page."""
    chance = run.last("chance_loss")
    levels = [] if chance is None else [Level(f"chance: {chance:.2f}", chance)]
    shown = [Curve(run.name, run.series("loss"), 0)]
    return chart("first-loss", "Contrastive loss, and chance", shown, Axes("step", "loss", digits=3), levels)


def render_curves(runs: Sequence[Run]) -> str:
    """Render every chart for which there are figures, the runs together in each."""
    chances = {
        (round(chance, 4), f"log({run.choices if run.mixed else 'K+1'})")
        for run in runs
        if (chance := run.last("chance_loss")) is not None
    }
    levels = [Level(f"chance: {formula} = {chance:.2f}", chance) for chance, formula in sorted(chances)]
    alike, near_0 = "0 is best: both views of an image have the same features.", "Lower is better; at 0 all are alike."
    knn = [Curve(run.name, run.series("knn_top1", over="time"), style) for style, run in enumerate(runs)]
    found = {round(value, 2) for run in runs if (value := run.last("knn_pixels")) is not None}
    pixels = [Level(f"raw pixels: {value:.2f}%", value) for value in sorted(found)]
    charts = (
        _chart(runs, "loss", "Contrastive loss", Axes("step", "loss", digits=3), levels, CHANCE_NOTE),
        chart("knn", "kNN accuracy over time", knn, Axes("minutes", "kNN top-1 (%)"), pixels, KNN_NOTE),
        _chart(runs, "alignment", "Alignment of two views", Axes("step", "alignment", digits=3), note=alike),
        _chart(runs, "uniformity", "Uniformity", Axes("step", "uniformity", digits=3), note=near_0),
        _chart(runs, "contrast_accuracy", "Contrast accuracy", Axes("step", "%", from_zero=True), note=CONTRAST_NOTE),
        *_negatives(runs),
        _chart(runs, "lr", "Learning rate", Axes("step", "learning rate", digits=5, from_zero=True)),
        _chart(runs, "images_per_second", "Throughput", Axes("step", "images per second", digits=1, from_zero=True)),
        _chart(runs, "gradient_norm", "Gradient norm", Axes("step", "gradient norm", digits=3, from_zero=True)),
    )
    return "".join(charts)


def _negatives(runs: Sequence[Run]) -> tuple[str, ...]:
    """What doubters ask: how many negatives count, how many are false, and whether old keys still fit."""
    false = [
        Curve(f"{run.name}, {said}", run.series(name), 2 * style + place)
        for style, run in enumerate(runs)
        for place, (name, said) in enumerate((("false_negatives", "number"), ("false_negative_weight", "weight")))
    ]
    ages = []
    for style, run in enumerate(runs):
        points = [(run.last(f"key_age_{group}"), run.last(f"key_similarity_{group}")) for group in range(1, AGES + 1)]
        ages.append(Curve(run.name, [(age, value) for age, value in points if age is not None], style))
    effective = Axes("step", "negatives", digits=1, from_zero=True)
    return (
        _chart(runs, "effective_negatives", "Effective number of negatives", effective, note=EFFECTIVE_NOTE),
        _chart(
            runs, "hardest_weight", "Weight of the hardest 1%", Axes("step", "%", from_zero=True), note=HARDEST_NOTE
        ),
        chart("false-negatives", "False negatives", false, Axes("step", "%", from_zero=True), (), FALSE_NOTE),
        chart("key-age", "Old keys beside fresh ones", ages, Axes("age in steps", "cosine", digits=3), (), AGE_NOTE),
    )


def _chart(runs: Sequence[Run], name: str, title: str, axes: Axes, levels: Sequence[Level] = (), note: str = "") -> str:
    shown = [Curve(run.name, run.series(name), style) for style, run in enumerate(runs)]
    return chart(name.replace("_", "-"), title, shown, axes, levels, note)
