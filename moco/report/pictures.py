"""What was stored of the encoder and its images, as HTML: views, neighbours, filters, confusions."""

from typing import Any

from moco.report.markup import (
    TIMES,
    as_list,
    element,
    escape,
    make_scrollable,
    number,
    percent,
    picture,
    show,
    table,
    to_plain_text,
)
from moco.report.runs import Run

LARGEST_MATRIX = 20
"""Classes up to which the confusions are a matrix; of more, the most frequent mistakes are listed."""
LISTED = 25
SHADES = 10


def rows_of(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing of anything else."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def class_name(classes: Any, label: Any) -> str:
    """Return the name of a class by its number; an empty text where there is none."""
    if not isinstance(classes, list) or not isinstance(label, int) or not 0 <= label < len(classes):
        return ""
    return to_plain_text(classes[label])


def render_views(run: Run) -> str:
    """Return some images, and the views of them that the model was shown."""
    content = run.gallery.get("views")
    if not isinstance(content, dict):
        return ""
    titles = [f"epoch {row.get('epoch')}, {row.get('view')}" for row in rows_of(content.get("titles"))]
    body = []
    for row in rows_of(content.get("rows")):
        name = _named(row, run.gallery.get("classes"))
        shown_views = as_list(row.get("views"))
        cells = [picture(row.get("image"), f"image {name}", class_="thumb")]
        cells += [
            picture(view, f"{title} of {name}", class_="thumb")
            for title, view in zip(titles, shown_views, strict=False)
        ]
        body.append(cells)
    text = (
        f"Left: the image. Then the views of it that the model saw: {escape(content.get('size'))} pixels, "
        f"augmentation {escape(content.get('augment'))}. Query and key of one epoch are a positive pair."
    )
    return element("p", text, class_="note") + table(["image", *map(escape, titles)], body, label="Views")


def render_neighbours(run: Run, most: int | None = None, nearest: int | None = None) -> str:
    """Return images that are not searched, at most `most`, and the `nearest` training images of each."""
    classes, body = run.gallery.get("classes"), []
    for row in rows_of(run.gallery.get("neighbours"))[:most]:
        own = row.get("class")
        tiles = "".join(_tile(found, classes, own) for found in rows_of(row.get("found"))[:nearest])
        query = element(
            "div",
            picture(row.get("image"), f"image {_named(row, classes)}", class_="thumb") + _caption(row, classes),
            class_="tile query",
        )
        body.append(element("li", query + element("div", tiles, class_="found")))
    if not body:
        return ""
    marked = " ✓ same class, ✗ another class." if isinstance(classes, list) else ""
    text = (
        f"Left: an image of {_searched_for(run)}. Right: the most similar of {show(run.gallery.get('bank'), 0)} "
        f"training images, with the cosine similarity.{marked}"
    )
    return element("p", text, class_="note") + element("ul", "".join(body), class_="neighbours")


def _searched_for(run: Run) -> str:
    """Name the split whose neighbours are shown, as `data.splits.final_split` takes it."""
    splits = run.gallery.get("splits")
    known = {"test": "the test split", "val": "the validation split"}
    there = (said for name, said in known.items() if isinstance(splits, dict) and name in splits)
    return next(there, "a tenth of the training images, which is not searched")


def _tile(found: dict[str, Any], classes: Any, own: Any) -> str:
    same = found.get("class") == own if isinstance(own, int) and isinstance(classes, list) else None
    mark = {True: "✓ ", False: "✗ ", None: ""}[same]
    alt = f"similarity {show(found.get('similarity'), 3)}, {_named(found, classes)}"
    caption = element("span", f"{mark}{show(found.get('similarity'), 2)}", class_="caption")
    kind = {True: "tile same", False: "tile other", None: "tile"}[same]
    return element("div", picture(found.get("image"), alt, class_="thumb") + caption, class_=kind, title=alt)


def _caption(row: dict[str, Any], classes: Any) -> str:
    return element("span", escape(class_name(classes, row.get("class")) or row.get("name", "")), class_="caption")


def _named(row: dict[str, Any], classes: Any) -> str:
    label = class_name(classes, row.get("class"))
    return f"{to_plain_text(row.get('name', ''))}{f' ({label})' if label else ''}"


def render_filters(run: Run) -> str:
    """Render the first layer's filters as small pictures."""
    content = run.gallery.get("filters")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return ""
    images = content["images"]
    tiles = "".join(picture(image, f"filter {i}", class_="filter") for i, image in enumerate(images, 1))
    side = escape(content.get("side"))
    said = f"{show(content.get('count'), 0)} filters of {side} {TIMES} {side} pixels"
    more = "" if len(images) == content.get("count") else f", the first {len(images)} of them"
    text = f"Layer {escape(content.get('layer'))}: {said}{more}, each scaled to its own largest weight; grey is zero."
    text += " Edges and colours show that it learned; noise shows that it did not, or that filters are small."
    return element("p", text, class_="note") + element("div", tiles, class_="filters")


def render_confusion(run: Run) -> str:
    """Return which classes the neighbours take for which: by `moco knn` where it left a table, else by the gallery."""
    counts, classes, source = _counts(run)
    if counts is None:
        return ""
    right, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
    said = (
        f"{source}: {percent(100 * right / max(1, total))} of {show(total, 0)} images get the right class. Each row "
        f"is a true class, each column a predicted one, in percent of the row."
    )
    text = element("p", said, class_="note")
    if len(counts) > LARGEST_MATRIX:
        return text + _mistakes(counts, classes)
    head = "".join(element("th", element("span", escape(name)), scope="col") for name in classes)
    body = ""
    for i, row in enumerate(counts):
        cells = ""
        for j, count in enumerate(row):
            share = 100 * count / max(1, sum(row))
            kind = f"c{min(SHADES, round(share / 100 * SHADES + 0.35))}{' right' if i == j else ''}"
            cells += element("td", f"{share:.0f}" if count else "·", class_=kind)
        body += f'<tr><th scope="row">{escape(classes[i])}</th>{cells}</tr>'
    corner = '<td class="corner">true ↓ predicted →</td>'
    matrix = element("table", f"<thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody>", class_="confusion")
    return text + make_scrollable(matrix, "Confusions")


def _mistakes(counts: list[list[int]], classes: list[str]) -> str:
    pairs = [
        (count / max(1, sum(row)), count, i, j)
        for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count
    ]  # fmt: skip
    rows = [
        [escape(classes[i]), escape(classes[j]), show(count, 0), percent(100 * share)]
        for share, count, i, j in sorted(pairs, reverse=True)[:LISTED]
    ]
    return table(
        ["class", "taken for", "images", "of the class"], rows, numbers=range(2, 4), label="Most frequent mistakes"
    )


def _counts(run: Run) -> tuple[list[list[int]] | None, list[str], str]:
    stored = run.evaluations.get("knn", {})
    sources: list[tuple[dict[str, Any], str]] = [
        (stored, "By moco knn"),
        (run.gallery, f"By the neighbours among {show(run.gallery.get('bank'), 0)} training images"),
    ]
    for content, said in sources:
        counts, classes = as_list(content.get("confusion")), as_list(content.get("classes"))
        if _is_square(counts) and len(classes) == len(counts):
            return [[int(count) for count in row] for row in counts], [to_plain_text(name) for name in classes], said
    return None, [], ""


def _is_square(counts: list[Any]) -> bool:
    return (
        len(counts) > 1
        and all(isinstance(row, list) and len(row) == len(counts) for row in counts)
        and all(number(count) is not None and count >= 0 for row in counts for count in row)
    )  # fmt: skip
