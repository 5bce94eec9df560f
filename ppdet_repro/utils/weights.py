"""Finds or downloads weight files, and reads them without running code in them.

A `.pdparams` file is a pickle, and unpickling a file from elsewhere can run any code. `read_state` reads it with
`array_pickle`, which accepts arrays alone. A `.safetensors` file can contain no code. Downloads are cached, resumed
after an interruption, and verified.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import pickle
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from ppdet_repro.utils.array_pickle import MAX_AXES, Damaged, Refused, StoredArray, load_arrays
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file, user_path
from ppdet_repro.utils.logger import get_logger

ENDING, SAFETENSORS = ".pdparams", ".safetensors"
SAFETENSORS_TYPES = {  # its names of the types that Paddle has
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
NAME_TABLE = "StructuredToParameterName@@"  # Paddle's entry with the names of variables, which nothing here needs
SPLIT_TABLE = "UnpackBigParamInfor@@"  # Paddle's entry about arrays over 1 GB, which it saves in pieces
PADDLEDET_HOST = "https://paddledet.bj.bcebos.com/"
CACHE_VARIABLE = "PPDET_REPRO_CACHE"
ATTEMPTS = 3
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
MAX_HEADER = 1 << 23  # bytes in front of the arrays in a safetensors file; an array has about 100


def read_state(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """Read the arrays of a weight file by name, without running code in the file.

    A name ending in `.safetensors` is a file of that format, any other is one that Paddle or `pickle` wrote. Numbers in
    bfloat16 become float32. Raises a `UserError` if the file is missing, empty or damaged, contains anything but named
    arrays, or would need far more memory than it has bytes.
    """
    path = user_path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: not a file, but a folder or a device; give a file of weights")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path}: the file is empty; copy or download it again")
            content = _load_safetensors(file.read()) if path.suffix == SAFETENSORS else load_arrays(file)
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights: {error.strerror}") from error
    except Refused as error:
        raise UserError(
            f"{path}: refused: {error}, which no weight file needs and which could run code or fill the memory; get "
            "the weights from a source that you trust"
        ) from None
    except Damaged as error:
        raise UserError(f"{path}: damaged, or not a weight file: {error}; get it again") from None
    except MemoryError:
        raise UserError(f"{path}: there is not enough memory for its {size:,} bytes") from None
    try:
        return _named_arrays(content, size)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a weight file: {error}") from None


def _load_safetensors(data: bytes) -> Dict[str, StoredArray]:
    """The arrays in a file of the format safetensors. Raises `Damaged`, and TypeError for other numbers than ours."""
    import safetensors

    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise Damaged(f"its header has more than {MAX_HEADER:,} bytes")
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise Damaged(str(error)[:200]) from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS_TYPES:
            raise Damaged(f"{_short(name)} has numbers of the type {entry['dtype']}, which Paddle does not have")
        values = np.frombuffer(entry["data"], SAFETENSORS_TYPES[entry["dtype"]])
        arrays[name] = StoredArray(values.reshape(entry["shape"]).astype(values.dtype.newbyteorder("=")))
    return arrays


def _named_arrays(content: Any, size: int) -> Dict[str, np.ndarray]:
    """The arrays of a file of `size` bytes. Raises ValueError or TypeError if it has anything else."""
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, not named arrays")
    content.pop(NAME_TABLE, None)
    split = content.pop(SPLIT_TABLE, {})
    arrays = {key: _array(key, value) for key, value in content.items()}
    if sum(array.nbytes for array in arrays.values()) > 2 * size:  # an array may have two names
        raise ValueError("its names have more numbers than the file; the same array has many names")
    for key, pieces, shape in _split_arrays(split):
        missing = [piece for piece in pieces if piece not in arrays]
        if missing:
            raise ValueError(f"{_short(key)} has the piece {_short(missing[0])}, which is missing")
        parts = [arrays.pop(piece).ravel() for piece in dict.fromkeys(pieces)]
        if len({part.dtype for part in parts}) > 1:
            raise TypeError(f"{_short(key)} has pieces of several types")
        whole = np.concatenate(parts)
        if math.prod(shape) != whole.size:
            raise ValueError(f"{_short(key)} has {whole.size} numbers in its pieces, which is not its shape")
        arrays[key] = whole.reshape(shape)
    floats = {id(array): _float32(array) for array in arrays.values() if array.dtype == np.uint16}
    return {key: floats.get(id(array), array) for key, array in arrays.items()}


def _split_arrays(table: Any) -> Iterator[Tuple[str, List[str], List[int]]]:
    """The name of each array that Paddle cut to pieces, the names of these, and the shape of the whole."""
    if not isinstance(table, dict):
        raise TypeError(f"{SPLIT_TABLE} is a {type(table).__name__}")
    for key, entry in table.items():
        entry = entry if isinstance(entry, dict) else {}
        pieces, shape = entry.get("slices", ()), entry.get("OriginShape", 0)
        known = _is_list_of(str, pieces) and _is_list_of(int, shape) and pieces and len(shape) <= MAX_AXES
        if not known or min(shape, default=0) < 0:
            raise TypeError(f"{SPLIT_TABLE} has no names of pieces and no shape for {_short(key)}")
        yield key, list(pieces), list(shape)


def _is_list_of(kind: type, value: Any) -> bool:
    return type(value) in (list, tuple) and all(type(item) is kind for item in value)


def _array(key: Any, value: Any) -> np.ndarray:
    """The value of an entry as a numeric array. Paddle saves some values as (name, array), and bfloat16 as uint16."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, StoredArray) or value.value is None:
        raise TypeError(f"{_short(key)} is a {type(value).__name__}, not an array of numbers")
    return value.value


def _short(name: str) -> str:
    """A name for a message, which a damaged file can make as long as it is."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _float32(bfloat16: np.ndarray) -> np.ndarray:
    """The same numbers as float32, whose upper 16 bits are those of bfloat16."""
    return np.asarray(np.left_shift(bfloat16, 16, dtype=np.uint32).view(np.float32))


def save_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a file for `read_state` completely, or raise an `OSError`, such as for a full disk.

    Equal arrays give equal bytes. With the ending `.safetensors` it has that format, otherwise one for `paddle.load`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        if path.suffix == SAFETENSORS:
            import safetensors.numpy

            file.write(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()}))
        else:
            pickle.dump({key: _with_common_type(array) for key, array in state.items()}, file, protocol=4)


def _with_common_type(array: np.ndarray) -> np.ndarray:
    """The same array with NumPy's own object for its type; a pickle tells equal types of different objects apart."""
    return array.view(np.dtype(array.dtype.str))


def convert_weights(source: Union[str, Path], output: Path) -> None:
    """Write the arrays of a weight file to another, whose name ends in `.pdparams` or `.safetensors`.

    `source` is a path or a URL, see `resolve`. Raises a `UserError` if it cannot be read or `output` not be written.
    """
    if output.suffix not in (ENDING, SAFETENSORS):
        raise UserError(f"{output}: the name of the file to write must end with {ENDING} or {SAFETENSORS}")
    state = read_state(resolve(source))
    try:
        save_state(output, state)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    get_logger().info(f"{output}: {len(state)} arrays")


def resolve(source: Union[str, Path], offline: bool = False) -> Path:
    """The local file for a path or a URL of weights.

    A path may lack the suffix `.pdparams` or be the folder of a checkpoint. A URL (`http://`, `https://`, or `ppdet://`
    for PaddleDetection's server) is downloaded once, unless `offline` is true, and may end in `#sha256=HEX`, the
    checksum to verify. Raises a `UserError` if there is no such file, the download fails, or the checksum differs.
    """
    text = str(source)
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
            f"{_sha256(partial)} (append '#sha256=...' to the URL to verify it next time)"
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
    found = _sha256(path)
    if found != remote.sha256:
        path.unlink()
        raise UserError(
            f"{remote.url}: sha256 is {found}, but should be {remote.sha256}; the file was deleted. "
            "Try again, or correct the checksum"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
