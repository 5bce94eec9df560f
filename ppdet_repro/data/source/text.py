"""Reads text files of users: UTF-8, UTF-16, and the Chinese encodings GB2312, GBK and GB18030."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections import Counter
from contextlib import suppress
from typing import Any, Optional, Union

from ppdet_repro.data.source.files import MAX_LINE, files_checked, is_text, require_file
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

CHINESE = "gb18030"  # contains GB2312 and GBK
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
PAIR = re.compile(rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]")
COMMON = re.compile(rb"[\xa1-\xa9\xb0-\xd7][\xa1-\xfe]")  # signs and the frequent characters of GB2312

DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")
ASIAN = {  # Python's codecs for encodings of several bytes that expat does not know
    "gb2312": CHINESE, "gbk": CHINESE, "gb18030": CHINESE, "hz": "hz", "big5": "big5hkscs", "big5hkscs": "big5hkscs",
    "cp950": "cp950", "shift_jis": "cp932", "cp932": "cp932", "euc_jp": "euc_jp", "iso2022_jp": "iso2022_jp",
    "euc_kr": "cp949", "cp949": "cp949",
}  # fmt: skip
HAN = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}")  # a character of three bytes in UTF-8
HIDDEN = re.compile(r"(^|[/\\])(__MACOSX[/\\]|(\._[^/\\]*|\.DS_Store|Thumbs\.db|desktop\.ini)$)", re.IGNORECASE)


def text_of(data: bytes) -> tuple[str, str]:
    """Decode a text. Returns also its encoding. UnicodeDecodeError, about UTF-8, if it is in none that is known.

    Text that is not UTF-8 is Chinese if most of its pairs of bytes are frequent Chinese characters. Latin-1 and
    Shift_JIS have hardly any such pairs.

    Example:
        >>> text_of("圆盘".encode("gbk"))
        ('圆盘', 'gb18030')
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding), encoding
    if data.count(b"\0") * 4 > len(data):  # UTF-16 without a mark: ASCII has a zero in every second byte
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
        return data.decode(encoding), encoding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        pairs = PAIR.findall(data)
        if sum(bool(COMMON.fullmatch(pair)) for pair in pairs) * 2 > len(pairs):
            try:
                return data.decode(CHINESE), CHINESE
            except UnicodeDecodeError:
                pass
        raise error


def xml_text(data: bytes) -> Optional[str]:
    """Decode an XML file whose encoding expat does not know, or that is not in the encoding that it declares.

    None if it is in no known encoding.
    """
    encodings = []
    found = DECLARATION.match(data)
    if found:
        with suppress(LookupError):
            encodings.append(ASIAN.get(codecs.lookup(found[1].decode()).name, "utf-8"))
    if HAN.search(data):  # text that is valid UTF-8 and has such characters is UTF-8, whatever it declares
        encodings.insert(0, "utf-8")
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    with suppress(UnicodeDecodeError):
        return text_of(data)[0]
    return None


def read_text(path: Union[str, os.PathLike]) -> str:
    """Read a text file. UserError with the line if it is in no known encoding. Logs a line if it is not Unicode."""
    with files_checked(path, "read"), open(path, "rb") as file:
        data = file.read()
    try:
        text, encoding = text_of(data)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{number}: not text in UTF-8 ({error.reason}): convert the file to UTF-8") from None
    if encoding == CHINESE:
        get_logger().warning(f"{path} is not UTF-8, and is read as Chinese (GB18030)")
    return text


def read_json(path: Union[str, os.PathLike]) -> Any:
    """Read a JSON file. UserError if it is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{path} is not valid JSON: its lists and objects are nested too deeply") from None
    except ValueError as error:  # also a very long integer
        raise UserError(f"{path} is not valid JSON ({error}): if it is truncated, create it again") from None


def is_json(path: Union[str, os.PathLike]) -> bool:
    """Whether a file's name ends in .json, in small or capital letters."""
    return os.fspath(path).lower().endswith(".json")


def read_lines(path: str) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not blank, without spaces around them, and their numbers from 1.

    UserError if the file is no text, or a line is no name: it is too long or contains a NUL character.
    """
    lines = io.StringIO(read_text(path), newline=None)
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in found:
        if not is_text(line):
            raise UserError(f"{path}:{number}: {line[:40]!r} is not a name: it has NUL characters or over {MAX_LINE}")
    return found


def read_label_list(path: str, background: bool = False) -> list[str]:
    """Read class names from a text file, one per line. A leading "background" is left out, unless `background`."""
    require_file(path, "give a text file with one class name per line")
    lines = read_lines(path)
    if lines and lines[0][1] == "background" and not background:
        lines = lines[1:]
    names = [name for _, name in lines]
    if not names:
        raise UserError(f"{path} names no class: write one name per line")
    twice = sorted(name for name, number in Counter(names).items() if number > 1)
    if twice:
        numbers = [str(number) for number, name in lines if name == twice[0]]
        where = f"{path}: the lines {', '.join(numbers[:5])} name the same class {twice[0][:MAX_LINE]!r}"
        raise UserError(f"{where}: remove the repetition, or tell the classes apart")
    return names


def is_hidden(name: str) -> bool:
    """Whether a file is one that systems put beside the files of users.

    Example:
        >>> [is_hidden(name) for name in ("a.jpg", "images/._a.jpg", "__MACOSX/a.jpg", "Thumbs.db", ".DS_Store")]
        [False, True, True, True, True]
    """
    return HIDDEN.search(name) is not None
