"""The failures that a caller can act on, each of which `cli` turns into its exit code; and how messages are written."""

import errno
import re

TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
"""The numbers of the errors that say that descriptors are short: nothing is wrong with the file."""
NONE_RECEIVED = "items of ancdata"
"""Part of what Python raises where a loading process passes a descriptor on and there is no room for it."""
NO_MEMORY = re.compile("MemoryError|OutOfMemoryError|can't allocate memory|not enough memory")
"""Matches what torch and numpy raise when memory is short."""
COMPILERS = ("torch._dynamo.", "torch._inductor.")
"""The modules of the errors that torch raises where a network cannot be compiled."""

COMPILER_ERROR = re.compile(r"^.*\berror: .+$", re.MULTILINE)
"""Matches a C++ compiler's line with the error."""
MOST_OF_COMPILER = 300
"""Characters of such a line that are repeated."""


def one_line(message: object) -> str:
    """Make a message one line that a terminal only shows: names of files may hold anything."""
    text = " ".join(str(message).splitlines())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


LONGEST_QUOTE = 100
"""Characters of a value that a message repeats; of a longer one both ends are told."""


def shorten(text: str) -> str:
    """Leave out the middle of a long text that a message repeats."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 33]}...{text[-30:]}"


def quote(value: object) -> str:
    """Write a value as a message repeats it: in quotes where it is text, and not too long."""
    return shorten(repr(value))


HISSING = ("s", "x", "ch", "sh")
"""How nouns end whose plural takes -es."""


def counted(number: object, thing: str) -> str:
    """Write how many there are of a thing: 1 step, 2 steps, 1 loading process, 0 loading processes."""
    ending = "" if str(number) == "1" else "es" if thing.endswith(HISSING) else "s"
    return f"{number} {thing}{ending}"


def spell_images(measured_on: str) -> str:
    """Write for people which images a figure is of: results on disk call the training images train."""
    return measured_on.replace("a tenth of train", "a tenth of the training images", 1)


def explain_torch(error: BaseException) -> str | None:
    """Say in one line what torch or numpy could not do on this machine, and what to do; None for any other error."""
    first = str(error).strip().partition("\n")[0]
    if NONE_RECEIVED in str(error):
        return first
    if NO_MEMORY.search(f"{type(error).__name__}: {error}"):
        return f"out of memory ({first}): give a smaller size, number or batch"
    if type(error).__module__.startswith(COMPILERS):
        told = COMPILER_ERROR.search(str(error).strip().partition("\n")[2])  # behind the whole command line
        reason = first if told is None else f"{first.rstrip(': ')}: {told[0].strip()[:MOST_OF_COMPILER]}"
        return (
            f"the encoders cannot be compiled here ({reason}): leave --compile out, or give what is missing, such as a "
            f"C++ compiler or a folder that can be written (TORCHINDUCTOR_CACHE_DIR)"
        )
    return None


def explain_open_files(error: BaseException) -> str | None:
    """Say what to do where there are too many open files; None for any other error."""
    if getattr(error, "errno", None) not in TOO_MANY_OPEN and NONE_RECEIVED not in str(error):
        return None
    return f"too many open files ({one_line(error)}): raise the limit (ulimit -n), or give fewer --workers"


class BadInputError(ValueError):
    """What was given cannot be used: says what was given, what was expected and what to do (exit code 2)."""


class StoppedError(RuntimeError):
    """A signal came, and the state is saved (exit code 75)."""


class StalledError(RuntimeError):
    """Another process of the training does not answer (exit code 1)."""


class NoMemoryError(MemoryError):
    """A step needs more memory than the GPU has: says how much, and what to change (exit code 1)."""


class VoidError(RuntimeError):
    """A check found a result to be wrong, which is therefore not given (exit code 1)."""


class DivergedError(RuntimeError):
    """The loss or a gradient is no longer finite (exit code 3)."""
