"""Weight files: found or downloaded, and read without running what is in them.

A `.pdparams` file is a pickle, and unpickling an arbitrary one runs whatever its author liked.
`read_state` admits only the few names that arrays are made of. `resolve` turns a path or a URL into a
local file: downloads are kept in a cache, resumed where they broke off, and checked where a checksum is
given.
"""

from __future__ import annotations

import _codecs
import collections
import fcntl
import hashlib
import http.client
import os
import pickle
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, Mapping, NamedTuple, Optional, Union

import numpy as np
from tqdm import tqdm

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.logger import get_logger

ENDING = ".pdparams"
NAME_TABLE = "StructuredToParameterName@@"  # Paddle's: from our keys to names of variables; of no use to us
SPLIT_TABLE = "UnpackBigParamInfor@@"  # Paddle's: arrays over 1 GB, cut to pieces

PADDLEDET_HOST = "https://paddledet.bj.bcebos.com/"
CACHE_VARIABLE = "PPDET_REPRO_CACHE"
ATTEMPTS = 3
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20


# Reading


def _admitted() -> Dict[tuple, Any]:
    """What a pickle of arrays refers to, under the module names of numpy 1 and 2."""
    names = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _codecs.encode,  # bytes, in protocol 2
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("builtins", "tuple"): tuple,
        ("__builtin__", "tuple"): tuple,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[module, "_reconstruct"] = np.zeros(0).__reduce__()[0]
        names[module, "scalar"] = np.float32(0).__reduce__()[0]
    return names


ADMITTED = _admitted()


class _Refused(Exception):
    """A pickle refers to something that no genuine file contains."""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays in dicts, lists and tuples, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise _Refused(f"{module}.{name}")
        return ADMITTED[module, name]


def read_state(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """The arrays of a weight file by name. No code in the file is run.

    UserError: the file is missing, empty, truncated, not a pickle of named arrays, or refers to anything
    else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path}: the file is empty; copy or download it again")
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights: {error.strerror}") from error
    except UserError:
        raise
    except _Refused as error:
        raise UserError(
            f"{path}: refused: the file refers to {error}, which no weight file needs and which could run "
            "code; get the weights from a source that you trust"
        ) from None
    except Exception as error:  # unpickling bytes that are no pickle raises nearly anything
        raise UserError(
            f"{path}: damaged, or not a weight file ({type(error).__name__}: {error}); get it again"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a weight file: it holds a {type(content).__name__}, not named arrays")
    content.pop(NAME_TABLE, None)
    try:
        pieces = _join_split(content)
        return {_text(key): _array(key, value) for key, value in pieces.items()}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a weight file: {error}") from None


def _join_split(content: Dict[str, Any]) -> Dict[str, Any]:
    """The entries with arrays that Paddle cut to pieces put together again."""
    table = content.pop(SPLIT_TABLE, {})
    whole = {
        key: np.concatenate([content.pop(piece) for piece in entry["slices"]]).reshape(entry["OriginShape"])
        for key, entry in table.items()
    }
    return {**content, **whole}


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a name is {key!r}, not text")
    return key


def _array(key: str, value: Any) -> np.ndarray:
    """An entry as a numeric array; Paddle saves some as (name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, (np.ndarray, np.generic)) or np.asarray(value).dtype.kind not in "biuf":
        raise TypeError(f"{key!r} is a {type(value).__name__}, not an array of numbers")
    return np.asarray(value)


def write_state(file: BinaryIO, state: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as Paddle does: `paddle.load` and `read_state` read the file."""
    pickle.dump(dict(state), file, protocol=4)


def save_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a weight file, whole or not at all. OSError: disk full, no permission."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        write_state(file, state)


# Finding


def resolve(source: Union[str, Path], offline: bool = False) -> Path:
    """A path or URL of weights as a local file.

    A path may leave out `.pdparams` and may be a checkpoint's folder. URLs (http, https; `ppdet://`
    stands for PaddleDetection's server) are downloaded once; `#sha256=HEX` at the end of one is checked.
    `offline` uses the cache only.

    UserError: there is no such file, no network, or the checksum differs.
    """
    text = str(source)
    if text.startswith("ppdet://"):
        text = PADDLEDET_HOST + text[len("ppdet://") :]
    if text.startswith(("http://", "https://")):
        return _cached(_parse_url(text), offline)
    path = Path(text).expanduser()
    candidates = (path, Path(f"{path}{ENDING}"), path / f"model{ENDING}")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: there are no such weights; looked for {', '.join(map(str, candidates))}")


def cache_folder() -> Path:
    """Where downloads are kept: $PPDET_REPRO_CACHE, else ~/.cache/ppdet_repro/weights."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/ppdet_repro/weights").expanduser()


class _Remote(NamedTuple):
    url: str
    sha256: Optional[str]
    path: Path  # in the cache


class _Broken(Exception):
    """A download that broke off; trying again may help."""


def _parse_url(text: str) -> _Remote:
    url, _, fragment = text.partition("#")
    sha256 = None
    if fragment:
        key, _, value = fragment.partition("=")
        sha256 = value.lower()
        if key != "sha256" or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise UserError(f"{text}: after '#' a URL may have sha256= and 64 hexadecimal digits, nothing else")
    parts = urllib.parse.urlsplit(url)
    names = [name for name in urllib.parse.unquote(parts.path).split("/") if name not in ("", ".", "..")]
    if not parts.netloc or not names:
        raise UserError(f"{text}: a URL of weights needs a host and a file name")
    return _Remote(url, sha256, cache_folder().joinpath(parts.netloc.replace(":", "_"), *names))


def _cached(remote: _Remote, offline: bool) -> Path:
    """The cached file, downloaded if need be; one process downloads, others wait for it."""
    with _reporting_files(remote):
        if not remote.path.is_file():
            if offline:
                raise UserError(
                    f"{remote.url}: not in the cache, and --offline forbids to download it; fetch it "
                    f"elsewhere and put it at {remote.path}"
                )
            with _lock(remote.path):
                if not remote.path.is_file():
                    _download(remote)
        if remote.sha256:
            _verify(remote, remote.path)
    return remote.path


@contextmanager
def _reporting_files(remote: _Remote) -> Iterator[None]:
    """An OSError of the cache's as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{remote.path}: cannot keep {remote.url} there: {error.strerror}; make room, or set "
            f"{CACHE_VARIABLE} to another folder"
        ) from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(remote: _Remote) -> None:
    """Fetch the file, several attempts if the connection breaks, and put it into the cache."""
    partial = remote.path.with_name(remote.path.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(remote, partial)
            break
        except _Broken as error:
            if attempt == ATTEMPTS:
                raise UserError(
                    f"cannot download {remote.url}: {error}; check the network and try again (it goes on "
                    f"where it stopped), or fetch it elsewhere and put it at {remote.path}"
                ) from error
            get_logger().warning(f"download of {remote.url} broke off ({error}); trying again")
    if remote.sha256:
        _verify(remote, partial)
    else:
        get_logger().info(
            f"{remote.path.name}: no checksum is known; what came has sha256={_sha256(partial)} (to pin it, "
            "append '#sha256=...' to the URL)"
        )
    os.replace(partial, remote.path)
    _validator(partial).unlink(missing_ok=True)


def _validator(partial: Path) -> Path:
    """Where the server's mark of the version that a partial download belongs to is kept."""
    return partial.with_name(partial.name + ".version")


def _fetch(remote: _Remote, partial: Path) -> None:
    """Download into `partial`, going on after what is there if the server still has the same version."""
    version = _validator(partial)
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
            length = answer.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            _receive(answer, partial, have, total, remote)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what we have: it is not of this version
            partial.unlink()
            raise _Broken("the partial download does not fit the server's file") from error
        if error.code >= 500:
            raise _Broken(f"the server says {error.code} {error.reason}") from error
        raise UserError(f"cannot download {remote.url}: the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Broken(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionError, socket.timeout, ssl.SSLError) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _receive(answer: http.client.HTTPResponse, partial: Path, have: int, total: Optional[int], remote: _Remote) -> None:
    """Append the answer's body to the first `have` bytes of `partial`; `total` bytes it must be in the
    end.
    """
    size = f"{total / 2**20:.0f} MB" if total is not None else "unknown size"
    get_logger().info(f"downloading {remote.url} ({size}{', resumed' if have else ''}) to {remote.path}")
    quiet = not sys.stderr.isatty()
    with (
        open(partial, "ab" if have else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=quiet) as bar,
    ):
        while True:
            chunk = answer.read(CHUNK)
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    got = partial.stat().st_size
    if total is not None and got != total:
        raise _Broken(f"the connection closed after {got} of {total} bytes")


def _verify(remote: _Remote, path: Path) -> None:
    """UserError, and the file is gone, if its checksum is not the one that the URL gives."""
    found = _sha256(path)
    if found != remote.sha256:
        path.unlink()
        raise UserError(
            f"{remote.url}: sha256 is {found}, but should be {remote.sha256}; it was deleted. "
            "Try again, or correct the checksum"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()
