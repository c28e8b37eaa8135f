"""Mistakes in flags in plain words, of what tyro says about them."""

import re
from collections.abc import Callable
from difflib import get_close_matches

from moco.errors import shorten

KINDS = {"INT": "a whole number", "FLOAT": "a number"}
"""How --help writes a type -> what a person calls it."""
NUMBERS = {"invalid literal for int()": "a whole number", "could not convert string to float": "a number"}
"""How Python begins to say that a text is no number -> what was expected."""
QUOTED = re.compile("'([^']*)'")
UNREAD = ("Could not parse arguments", "Could not find valid parse")
"""How tyro begins where none of several values could be read."""


def explain_mistake(said: str, prog: str) -> str:
    """Explain a mistake in a command line: what was given and what was expected, or what is missing.

    `said` is what tyro says of it, on one line; what is not known here is returned as it is.
    """
    for pattern, explain in EXPLANATIONS:
        if found := re.search(pattern, said):
            return explain(found, prog)
    return said


def _missing(found: re.Match[str], prog: str) -> str:
    flags = [word for word in found[1].split() if word.startswith("--")] or found[1].split()
    for word in (found[2] or "").split():
        if word.startswith("--") and (similar := get_close_matches(word, flags, n=1, cutoff=0.8)):
            return f"{word} is not a flag of {prog}: did you mean {similar[0]}?"
    return f"{prog} needs {_list(flags, 'and')}"


def _without_value(found: re.Match[str], prog: str) -> str:
    return f"{found[1]} needs {'a value' if found[2] == '1' else f'{found[2]} values'}"


def _wrong_choice(found: re.Match[str], prog: str) -> str:
    return f"{found[2]} is {shorten(found[1])}: expected one of {', '.join(QUOTED.findall(found[3]))}"


def _wrong_value(found: re.Match[str], prog: str) -> str:
    flag, why = found[1], found[2]
    given = " ".join(QUOTED.findall(why))
    for beginning, expected in NUMBERS.items():
        if why.startswith(beginning):
            return f"{flag} is {shorten(given)}: expected {expected}"
    if kind := re.match(r"no type matching (?:\{None\}\|)?(INT|FLOAT) could be", why):
        return f"{flag} is {shorten(given)}: expected {KINDS[kind[1]]}"
    if why.startswith(("no type matching", *UNREAD)):
        return (
            f"{flag} is {shorten(given)}: expected numbers"
            if "FLOAT" in why or "INT" in why
            else f"{flag} cannot be {shorten(given)}"
        )
    return f"{flag}: {why}"


def _unknown(found: re.Match[str], prog: str) -> str:
    words = found[1].replace(",", " ").split()
    flags = [word for word in words if word.startswith("-")]
    similar = re.findall(r"(--[\w-]+)", (found[2] or "").partition("Perhaps you meant:")[2])
    hint = f": did you mean {_list(similar, 'or')}?" if similar else ""
    return (
        f"{shorten(flags[0])} is not a flag of {prog}{hint}"
        if flags
        else f"{shorten(words[0])} is not expected here{hint}"
    )


def _list(words: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


EXPLANATIONS: tuple[tuple[str, Callable[[re.Match[str], str], str]], ...] = (
    (r"Missing from [^:]+: (.*?)(?:; Unrecognized options: (.*))?$", _missing),
    (r"Missing value for argument '([^']+)'\. Expected (\d+) values", _without_value),
    (r"invalid choice '([^']*)' for argument '([^']+)'\. Expected one of \((.*?)\)", _wrong_choice),
    (r"Error parsing (\S+): (.*)", _wrong_value),
    (r"Unrecognized options: ([^;]*)(;.*)?$", _unknown),
)
"""Pattern of what tyro says -> what explains it; the first that fits."""
