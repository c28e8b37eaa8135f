"""Text, numbers and data as HTML: whatever a name holds, it stays text."""

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTHING, TIMES = "\u2013", "\u00d7"
"""A dash where there is no figure; the sign of multiplication."""
LONGEST_NAME = 160
"""Characters of a name that are shown."""

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""Control characters, line separators, and what turns the direction of writing or cannot be seen."""
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class Base64(str):
    """A picture in base64, which is no name and is never cut."""

    __slots__ = ()


def to_plain_text(value: object, longest: int = LONGEST_NAME) -> str:
    """Return a value as text of one line: controls are spelled out, lone surrogates replaced, long ones cut."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    text = _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def escape(value: object) -> str:
    """Return a value as HTML, in a text or in a quoted attribute."""
    return html.escape(to_plain_text(value), quote=True)


def escape_whole(text: str) -> str:
    """Return a sentence of ours as HTML, however long: only the names in it are cut."""
    return " ".join(escape(word) for word in text.split(" "))


def element(tag: str, content: str = "", **attributes: object) -> str:
    """Return an element around HTML; attributes are escaped, those that are None or False left out.

    `class_` is class, `data_x` is data-x.
    """
    opening = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        opening += f" {key}" if value is True else f' {key}="{escape(value)}"'
    return f"<{opening}>" if tag in ("img", "br", "meta") else f"<{opening}>{content}</{tag}>"


def data_block(name: str, values: Any) -> str:
    """Put data for the page's script into an element that is not executed and that no name can close."""
    text = json.dumps(_plain_values(values), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def _plain_values(values: Any) -> Any:
    if isinstance(values, Base64) and _BASE64.fullmatch(values):
        return str(values)
    if isinstance(values, str):
        return to_plain_text(values)
    if isinstance(values, Mapping):
        return {to_plain_text(name): _plain_values(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain_values(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def picture(content: object, alt: str, **attributes: object) -> str:
    """Return a WebP picture that is stored as base64; a word where it is something else."""
    if not isinstance(content, str) or not _BASE64.fullmatch(content):
        return element("span", "no picture", class_="missing")
    fields = {"alt": to_plain_text(alt), **attributes}
    rest = "".join(f' {name.rstrip("_")}="{escape(value)}"' for name, value in fields.items())
    return f'<img src="data:image/webp;base64,{content}"{rest}>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, label: str, numbers: range | None = None) -> str:
    """Return a table of HTML cells whose first column names the rows; it scrolls by itself, also by keyboard.

    The columns of `numbers` are set to the right.
    """
    kinds = ["n" if numbers is not None and i in numbers else None for i in range(len(header))]
    head = "".join(element("th", cell, scope="col", class_=kind) for cell, kind in zip(header, kinds, strict=True))
    body = ""
    for first, *others in rows:
        cells = "".join(element("td", cell, class_=kind) for cell, kind in zip(others, kinds[1:], strict=False))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return make_scrollable(element("table", f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"), label)


def make_scrollable(content: str, label: str) -> str:
    """Wrap content that may be wider than the page."""
    return element("div", content, class_="scroll", role="group", tabindex="0", aria_label=label)


def as_list(value: object) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's whole numbers may have any length
        return None
    return found if math.isfinite(found) else None


def show(value: object, digits: int = 2) -> str:
    """Show a number with so many digits after the point and narrow no-break spaces between thousands; or a dash."""
    found = number(value)
    if found is None:
        return NOTHING
    return f"{found:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")


def show_setting(value: Any) -> str:
    """Show a value of a config, in words."""
    if isinstance(value, list):
        return ", ".join(show_setting(part) for part in value)
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)


def percent(value: object) -> str:
    """Return a percentage."""
    return NOTHING if number(value) is None else f"{show(value)}%"


def duration(seconds: object) -> str:
    """Write seconds as a person says them."""
    found = number(seconds)
    if found is None or found < 0:
        return NOTHING
    if found < 90:
        return f"{found:.0f} s"
    minutes = round(found / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
