"""Text for terminals and logs.

Names of classes and files come from files, and can contain characters that make a terminal erase lines, change its
title, or show text in another order than it is written.
"""

from __future__ import annotations

import re

# Control characters without the line feed and the tab; marks of the direction of writing; halves of surrogate pairs.
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with an escape such as `\x1b` for every character that a terminal does not show as it is.

    Example:
        >>> printable("cat\x1b[2J")
        'cat\\x1b[2J'
    """
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_line(text: str) -> str:
    r"""The same for a text of one line, such as a name: line feeds and tabs are escaped, too.

    Example:
        >>> printable_line("two\nlines")
        'two\\nlines'
    """
    return printable(text.replace("\n", r"\n").replace("\t", r"\t"))
