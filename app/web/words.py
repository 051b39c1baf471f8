"""How the pages word durations, money and errors. Pure; the browser's script words time alike."""

from __future__ import annotations

import json
import re
from typing import Final

from actp_supervise.service import shorten


def duration(seconds: float | None) -> str:
    """Say a duration in its two largest units.

    >>> duration(7384.2), duration(59.9), duration(86_400), duration(None)
    ('2 h 3 min', '59 s', '1 d', '-')
    """
    if seconds is None:
        return "-"
    rest = max(0, int(seconds))
    counts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        counts.append((count, unit))
    while len(counts) > 1 and counts[0][0] == 0:
        counts.pop(0)
    first, *others = counts
    shown = [first, *(other for other in others[:1] if other[0])]
    return " ".join(f"{count} {unit}" for count, unit in shown)


def countdown(seconds: float) -> str:
    """Say how long it still takes, as a clock does.

    >>> countdown(41.2), countdown(3725), countdown(-3)
    ('0:42', '1:02:05', '0:00')
    """
    rest = max(0, -int(-seconds // 1))
    minutes, left = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def elapsed(seconds: float) -> str:
    """Say how long a call took.

    >>> elapsed(0.0312), elapsed(2.5), elapsed(75)
    ('31 ms', '2.5 s', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def money(usd: float) -> str:
    """Return an amount of US dollars; what is little and not nothing does not look like nothing.

    >>> money(4.1), money(0), money(0.004), money(1234.5)
    ('$4.10', '$0.00', '<$0.01', '$1,234.50')
    """
    return "<$0.01" if 0 < usd < 0.01 else f"${usd:,.2f}"


def fine_money(usd: float) -> str:
    """Say an amount of US dollars that may be a part of a cent, as that of one reply is.

    >>> fine_money(4.1), fine_money(0.0123), fine_money(0.00002), fine_money(0)
    ('$4.10', '$0.0123', '<$0.0001', '$0.00')
    """
    if usd == 0 or usd >= 1:
        return money(usd)
    return "<$0.0001" if usd < 0.0001 else f"${usd:.4f}"


def unreal(text: str) -> str:
    """Return amounts of dollars as what they are in a demonstration, where nobody pays them.

    >>> unreal("spent <$0.01 of $1,234.50, and a $ sign")
    'spent <0.01 play money of 1,234.50 play money, and a $ sign'
    """
    return re.sub(r"\$(\d(?:[\d,.]*\d)?)", r"\1 play money", text)


def words(name: str) -> str:
    """Turn a name of the code into words.

    >>> words("backing_off")
    'backing off'
    """
    return name.replace("_", " ")


def error_line(text: str) -> str:
    r"""Return the line of a traceback that names the error; of another text the last.

    Of a group of errors it is those of the errors in it.

    >>> error_line('Traceback:\n  File "a.py", line 1, in b\n    c()\nValueError: two\nlines')
    'ValueError: two'
    """
    lines = text.strip().splitlines() or [""]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    behind = lines[frames[-1] :] if frames else ()
    if _END_OF_GROUP.fullmatch(lines[-1]):
        return "; ".join(_errors_of_group(lines))
    return next((line for line in behind if not line.startswith(" ")), lines[-1])


_IN_GROUP: Final = re.compile(r" +[|+] (.*)")
_BETWEEN: Final = re.compile(r" +\+[-+]*- (\d+|\.\.\.) -+")
_END_OF_GROUP: Final = re.compile(r" +\+-+")
_IS_GROUP: Final = re.compile(r"\(\d+ sub-exceptions?\)$")


def _errors_of_group(lines: list[str]) -> list[str]:
    """Return the lines that name errors in a group's traceback, groups in it excepted."""
    errors = []
    named = True
    for line in lines:
        text = found[1] if (found := _IN_GROUP.match(line)) else ""
        if _BETWEEN.match(line) or text.startswith('  File "'):
            named = False
        elif not named and text[:1].strip() and "Traceback (most recent" not in text:
            named = True
            errors.append(text)
    return [error for error in errors if not _IS_GROUP.search(error)]


def first_line(text: str, most: int = 120) -> str:
    r"""Return what a text begins with, on one line.

    >>> first_line("\n Find it.\nThen write.", 40), first_line("abcdef", 4)
    ('Find it.', 'abc…')
    """
    return shorten(text.strip().partition("\n")[0], most)


def without(text: str, name: str | None) -> str:
    """Leave out whom a text is about, where that is said beside it.

    >>> without("content: turn 2", "content"), without("all is well", None)
    ('turn 2', 'all is well')
    """
    return text if name is None else text.removeprefix(f"{name}: ").removeprefix(f"{name} ")


def as_json(value: object) -> str:
    """Write a value to be read by people."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
