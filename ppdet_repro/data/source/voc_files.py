"""Reads the text files that list the images of VOC sets, and their XML files."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Optional

from ppdet_repro.data.source.base import IMAGE_SUFFIXES
from ppdet_repro.data.source.files import files_checked, is_text, path_inside, require_file
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, ODD, Findings
from ppdet_repro.data.source.spelling import find_spelling
from ppdet_repro.data.source.text import is_hidden, read_lines, xml_text
from ppdet_repro.data.source.values import MAX_NUMBER, as_flag, as_number
from ppdet_repro.utils.errors import UserError

SUFFIXES = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
PAIR = re.compile(rf"(?P<image>.+\.(?:{SUFFIXES}))\s+(?P<xml>.+\.xml)", re.IGNORECASE)
ODD_PAIR = re.compile(rf"(?P<image>.+?\.(?:{SUFFIXES}))[\"']?[\s,;]+[\"']?(?P<xml>.+\.xml)", re.IGNORECASE)
FLAG = re.compile(r"\s+(-1|0|1)$")  # of the lists per class in VOC's devkit
SUFFIX = re.compile(rf"\.({SUFFIXES}|xml)$", re.IGNORECASE)
FOLDER = re.compile(r"^(.*/)?(JPEGImages|Annotations)/")
YOLO_LINE = re.compile(r"\d+(\.0*)?(\s+[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?){4,}$", re.IGNORECASE)
SETS = os.path.join("ImageSets", "Main")


class Entry(NamedTuple):
    """The paths of one image of a set and of its annotations."""

    image: str
    xml: str
    line: int = 0  # of the set file


class Object(NamedTuple):
    """One object of an XML file. The box is (x1, y1, x2, y2) in pixels, as in the file."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    crowd: bool


class Annotation(NamedTuple):
    """The content of an XML file. Width, height and id are None if they are missing."""

    width: Optional[float]
    height: Optional[float]
    id: Optional[int]
    objects: list[Object]


NO_ANNOTATION = Annotation(None, None, None, [])


def read_set(path: str, folder: str, findings: Optional[Findings] = None) -> list[Entry]:
    """Read a set file. Returns paths in `folder`; the files need not exist.

    Lines are read as they are meant if that is a file: with quotes, back slashes, a flag as in VOC's lists per class,
    the image's suffix or folder, or in other letters than on the disk.
    """
    findings = findings or Findings()
    entries, odd, passed_over = [], [], []
    lines = read_lines(path)
    if lines and all(YOLO_LINE.match(line) for _, line in lines):
        fix = "give data.yaml, or the folder that contains the pictures and labels"
        raise UserError(f"{path} contains boxes in YOLO's format, and lists no images: {fix}")
    if lines and all(line.lower().endswith(IMAGE_SUFFIXES) for _, line in lines):
        first = os.path.join(os.path.dirname(path), lines[0][1])
        if os.path.isfile(first) and not any(map(os.path.isfile, _entry(lines[0][1], folder, path)[0][:2])):
            fix = "give data.yaml or the folder, or write 'image annotation.xml' on each line"
            raise UserError(f"{path} lists pictures without XML files, as YOLO does: {fix}")
    for number, line in lines:
        where = f"{path}:{number}"
        if is_hidden(line):
            passed_over.append(f"{where}: {line}")
            continue
        with findings.refusals("file outside the image folder"):
            entry, is_odd = _entry(line, folder, where)
            entries.append(entry._replace(line=number))
            if is_odd:
                odd.append(f"{where}: {line}")
    findings.report(ODD, "file of the system, passed over", passed_over, str)
    findings.report(ODD, "line with quotes, back slashes, a flag, a suffix, a folder or other letters", odd, str)
    return entries


def _entry(line: str, folder: str, where: str) -> tuple[Entry, bool]:
    """Return the entry of a line, and whether it is written in an odd way."""
    pair = PAIR.fullmatch(line)
    image, xml = (pair["image"], pair["xml"]) if pair else _devkit(line)
    refusal: Optional[UserError] = None
    entries = []
    try:
        entries.append(_paths(image, xml, folder, where, bool(pair)))
    except UserError as error:
        refusal = error
    else:
        if any(map(os.path.isfile, entries[0][:2])):
            return _spelled(entries[0], folder)
    for image, xml, has_suffix in _other_readings(line):
        with suppress(UserError):
            entries.append(_paths(image, xml, folder, where, has_suffix))
            if any(map(os.path.isfile, entries[-1][:2])):
                return _spelled(entries[-1], folder)[0], True
    for entry in dict.fromkeys(entries):
        found, is_odd = _spelled(entry, folder)
        if is_odd:
            return found, True
    if refusal:
        raise refusal
    return entries[0], False


def _spelled(entry: Entry, folder: str) -> tuple[Entry, bool]:
    """Replace names of files that are spelled otherwise on the disk; see `spelling.py`. Returns whether there are."""
    image, xml = entry.image, entry.xml
    if not os.path.isfile(image):
        name = os.path.relpath(image, folder or ".")
        names = [name, *(os.path.splitext(name)[0] + suffix for suffix in IMAGE_SUFFIXES)]
        image = next(filter(None, (find_spelling(folder, name) for name in names)), image)
    if not os.path.isfile(xml):
        xml = find_spelling(folder, os.path.relpath(xml, folder or ".")) or xml
    found = entry._replace(image=image, xml=xml)
    return found, found != entry


def _other_readings(line: str) -> Iterator[tuple[str, str, bool]]:
    """What a line may mean besides the usual: names of image and XML file, and whether the image has its suffix."""
    text = line.replace("\\", "/")
    pair = ODD_PAIR.fullmatch(text.strip("\"'"))
    if pair:
        yield pair["image"], pair["xml"], True
    for change in (str.strip, _without_flag, _unquoted, _without_suffix, _without_folder):
        text = change(text)
        yield (*_devkit(text), False)


def _without_flag(text: str) -> str:
    return FLAG.sub("", text)


def _unquoted(text: str) -> str:
    return text.strip("\"'").strip()


def _without_suffix(text: str) -> str:
    return SUFFIX.sub("", text)


def _without_folder(text: str) -> str:
    return FOLDER.sub("", text)


def _devkit(stem: str) -> tuple[str, str]:
    return os.path.join("JPEGImages", stem), os.path.join("Annotations", stem + ".xml")


def _paths(image: str, xml: str, folder: str, where: str, has_suffix: bool) -> Entry:
    image, xml = path_inside(folder, image, where), path_inside(folder, xml, where)
    return Entry(image if has_suffix else _with_suffix(image), xml)


def _with_suffix(stem: str) -> str:
    """Return the existing image with this path except for its suffix, or else the path with .jpg."""
    suffixes = [suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())]
    return next((stem + suffix for suffix in suffixes if os.path.isfile(stem + suffix)), stem + ".jpg")


def read_xml(path: str, findings: Optional[Findings] = None) -> Annotation:
    """Read one VOC annotation file. Objects without <bndbox> are left out. UserError if it cannot be used."""
    findings = findings or Findings()
    require_file(path, "every listed image needs an XML file; write one, or remove the image from the list")
    root = _parsed(path, findings)
    items = _objects(root)
    if not items or any(item.find("bndbox") is None for item in items):
        _plain_tags(root)
        items = _objects(root)
    objects = []
    for item in items:
        name = (item.findtext("name") or "").strip()
        box = item.find("bndbox")
        if box is None:
            has = f"{path}: object {name[:40]!r} has " + (", ".join(f"<{tag.tag}>" for tag in item)[:100] or "nothing")
            findings.report(LEFT_OUT, "object without <bndbox>", [has], str)
            continue
        x1, y1, x2, y2 = (_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax"))
        if not is_text(name) or x1 is None or y1 is None or x2 is None or y2 is None:
            raise UserError(f"{path}: object {name[:40]!r} needs <name>, <xmin>, <ymin>, <xmax> and <ymax>")
        difficult, crowd = (_flag(item, flag, path, findings) for flag in ("difficult", "iscrowd"))
        objects.append(Object(name, (x1, y1, x2, y2), difficult, crowd))
    number = (root.findtext("id") or "").strip()
    size = root.find("size")
    width, height = (math.nan if size is None else as_number(size.findtext(side)) for side in ("width", "height"))
    sized = 0 < width < MAX_NUMBER and 0 < height < MAX_NUMBER
    image_id = int(number) if re.fullmatch("[0-9]{1,18}", number) else None
    return Annotation(width if sized else None, height if sized else None, image_id, objects)


def _parsed(path: str, findings: Findings) -> ElementTree.Element:
    with files_checked(path, "read"), open(path, "rb") as file:
        data = file.read()
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: encodings that expat lacks
        failure: Exception = error
    text = xml_text(data)
    if text is not None:
        try:
            root = ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            failure = error
        else:
            findings.report(ODD, "XML file in another encoding", [path], str)
            return root
    raise UserError(f"{path} is not valid XML ({failure}): if it is truncated, create it again")


def _objects(root: ElementTree.Element) -> list[ElementTree.Element]:
    return root.findall("object") or list(root.iter("object"))


def _plain_tags(root: ElementTree.Element) -> None:
    """Write all tags in small letters and without namespaces."""
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2].lower()


def _number(element: ElementTree.Element, tag: str, path: str) -> Optional[float]:
    """Return the number in a child element, None if there is no such element."""
    text = element.findtext(tag)
    if text is None or not text.strip():
        return None
    number = as_number(text)
    if math.isfinite(number) and abs(number) < MAX_NUMBER:
        return number
    raise UserError(f"{path}: <{tag}> is {text.strip()[:40]!r}: write a number")


def _flag(element: ElementTree.Element, tag: str, path: str, findings: Findings) -> bool:
    flag = as_flag(element.findtext(tag))
    if flag is None:
        what = f"{path}: <{tag}> is {element.findtext(tag, '').strip()[:40]!r}, read as 0"
        findings.report(DOUBTFUL, f"{tag} that is neither 0 nor 1", [what], str)
    return bool(flag)


def class_names_in(folders: set[str], read: set[str], findings: Findings) -> set[str]:
    """Return the class names in the XML files of folders, except for those that are `read` already.

    No list names these files, so those that cannot be read are passed over.
    """
    names = set()
    for folder in sorted(folder for folder in folders if os.path.isdir(folder or ".")):
        for entry in os.scandir(folder or "."):
            path = os.path.join(folder, entry.name)
            if path in read or not entry.name.lower().endswith(".xml") or is_hidden(entry.name):
                continue
            try:
                names |= {item.name for item in read_xml(path).objects}
            except UserError as error:
                findings.report(DOUBTFUL, "XML file that no list names and that cannot be used", [str(error)], str)
    return names
