"""Finds weight files, or downloads them into a cache, resumes downloads that were interrupted, and verifies them."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple, Optional, Union

from filelock import FileLock
from tqdm import tqdm

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import CHUNK, file_sha256, user_path
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.packaged_weights import SCHEME, find_shipped

ENDING = ".pdparams"
PADDLEDET_HOST = "https://paddledet.bj.bcebos.com/"
CACHE_VARIABLE = "PPDET_REPRO_CACHE"
ATTEMPTS = 3
TIMEOUT = 30.0  # seconds without a byte


def resolve(source: Union[str, Path], offline: bool = False) -> Path:
    """The local file for a path or a URL of weights.

    A path may lack the suffix `.pdparams` or be the folder of a checkpoint. `package://NAME` stands for weights that
    come with the package. A URL (`http://`, `https://`, or `ppdet://`
    for PaddleDetection's server) is downloaded once, unless `offline` is true, and may end in `#sha256=HEX`, the
    checksum to verify. Raises a `UserError` if there is no such file, the download fails, or the checksum differs.
    """
    text = str(source)
    if text.startswith(SCHEME):
        return find_shipped(text)
    if text.startswith("ppdet://"):
        text = PADDLEDET_HOST + text[len("ppdet://") :]
    if text.startswith(("http://", "https://")):
        return _cached(_parse_url(text), offline)
    path = user_path(text)
    candidates = path, Path(f"{path}{ENDING}"), path / f"model{ENDING}"
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    raise UserError(f"{path}: there are no such weights; looked for {', '.join(map(str, candidates))}")


class _Remote(NamedTuple):
    url: str
    sha256: Optional[str]
    path: Path  # in the cache


class _Broken(Exception):
    """A download was interrupted; another attempt may succeed."""


def _parse_url(text: str) -> _Remote:
    url, _, fragment = text.partition("#")
    checksum = re.fullmatch("sha256=([0-9a-fA-F]{64})", fragment)
    if fragment and not checksum:
        raise UserError(f"{text}: after '#' a URL may have sha256= and 64 hexadecimal digits, nothing else")
    parts = urllib.parse.urlsplit(url)
    names = [name for name in urllib.parse.unquote(parts.path).split("/") if name not in ("", ".", "..")]
    if not parts.netloc or not names:
        raise UserError(f"{text}: a URL of weights needs a host and a file name")
    cache = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/ppdet_repro/weights").expanduser()
    return _Remote(url, checksum and checksum[1].lower(), cache.joinpath(parts.netloc.replace(":", "_"), *names))


def _cached(remote: _Remote, offline: bool) -> Path:
    """The file in the cache, downloaded if necessary. One process downloads; others wait for it."""
    try:
        if not remote.path.is_file():
            if offline:
                raise UserError(
                    f"{remote.url}: not in the cache, and --offline forbids the download; download it on another "
                    f"machine and save it as {remote.path}"
                )
            remote.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{remote.path}.lock"):
                if not remote.path.is_file():
                    _download(remote)
        if remote.sha256:
            _verify(remote, remote.path)
        return remote.path
    except OSError as error:
        raise UserError(
            f"{remote.path}: cannot save {remote.url} there: {error.strerror}; free disk space, or set "
            f"{CACHE_VARIABLE} to another folder"
        ) from error


def _download(remote: _Remote) -> None:
    """Download the file into the cache, in several attempts if the connection breaks."""
    partial = remote.path.with_name(remote.path.name + ".part")
    version = remote.path.with_name(remote.path.name + ".part.version")  # ETag or date of what `partial` is a part of
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(remote, partial, version)
            break
        except _Broken as error:
            if attempt == ATTEMPTS:
                raise UserError(
                    f"cannot download {remote.url}: {error}; check the network and try again (the download "
                    f"resumes), or download it on another machine and save it as {remote.path}"
                ) from error
            get_logger().warning(f"the download of {remote.url} was interrupted ({error}); trying again")
    if remote.sha256:
        _verify(remote, partial)
    else:
        get_logger().info(
            f"{remote.path.name}: not verified, because no checksum is given; the file has sha256="
            f"{file_sha256(partial)} (append '#sha256=...' to the URL to verify it next time)"
        )
    os.replace(partial, remote.path)
    version.unlink(missing_ok=True)


def _fetch(remote: _Remote, partial: Path, version: Path) -> None:
    """Download into `partial`; resume a partial download if the server still has the same version."""
    have = partial.stat().st_size if partial.is_file() and version.is_file() else 0
    headers = {"User-Agent": "ppdet_repro"}
    if have:
        headers.update({"Range": f"bytes={have}-", "If-Range": version.read_text()})
    try:
        with urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT) as answer:
            if answer.status != 206:
                have = 0
            mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if mark and not mark.startswith("W/"):
                version.write_text(mark)
            else:
                version.unlink(missing_ok=True)
            _receive(answer, partial, have, remote)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial download is longer than the file: it is another version
            partial.unlink()
            raise _Broken("the partial download does not match the file on the server") from error
        if error.code >= 500:
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        raise UserError(f"cannot download {remote.url}: the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Broken(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionError, socket.timeout, ssl.SSLError) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _receive(answer: http.client.HTTPResponse, partial: Path, have: int, remote: _Remote) -> None:
    """Append the body of a response to the first `have` bytes of `partial`."""
    length = answer.headers.get("Content-Length")
    total = None if length is None else have + int(length)
    size = f"{total / 2**20:.0f} MB" if total is not None else "unknown size"
    get_logger().info(f"downloading {remote.url} ({size}{', resumed' if have else ''}) to {remote.path}")
    bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None)  # None: only on a terminal
    with bar, open(partial, "ab" if have else "wb") as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    got = partial.stat().st_size
    if total is not None and got != total:
        raise _Broken(f"the connection closed after {got} of {total} bytes")


def _verify(remote: _Remote, path: Path) -> None:
    """Delete the file and raise a `UserError` if its checksum is not that of the URL."""
    found = file_sha256(path)
    if found != remote.sha256:
        path.unlink()
        raise UserError(
            f"{remote.url}: sha256 is {found}, but should be {remote.sha256}; the file was deleted. "
            "Try again, or correct the checksum"
        )
