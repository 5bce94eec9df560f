"""Weight files: what is read, what is refused, and what is downloaded."""

from __future__ import annotations

import collections
import hashlib
import os
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import paddle
import pytest

from ppdet_repro.utils import weights
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file, atomic_folder, remove_leftovers
from ppdet_repro.utils.weights import convert_weights, read_state, save_state


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def split_file(table):
    return pickle.dumps({"b": np.arange(4), "f": np.zeros(1), "UnpackBigParamInfor@@": table})


def many_names():
    array = np.zeros(1000)
    return pickle.dumps({f"name {i}": array for i in range(100)})


class Calls:
    """An object that makes whoever unpickles it call a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestReading:
    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_what_paddle_saves(self, tmp_path, protocol):
        layer = paddle.nn.Linear(2, 3)
        paddle.save(layer.state_dict(), str(tmp_path / "a.pdparams"), protocol=protocol)
        state = read_state(tmp_path / "a.pdparams")
        assert set(state) == {"weight", "bias"}
        assert np.array_equal(state["weight"], layer.weight.numpy())

    def test_paddle_reads_what_we_save(self, tmp_path):
        layer = paddle.nn.Linear(2, 3)
        save_state(tmp_path / "a.pdparams", {"weight": np.ones([2, 3], np.float32), "bias": np.zeros(3, np.float32)})
        assert layer.set_state_dict(paddle.load(str(tmp_path / "a.pdparams"))) == ([], [])
        assert float(layer.weight.sum()) == 6.0

    @pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
    def test_what_was_read_is_saved_in_the_same_bytes(self, tmp_path, suffix):
        """A run that is killed just before its end writes the weights of its last checkpoint."""
        state = {"a": np.ones([2, 3], np.float32), "b": np.zeros(4, np.float32), "c": np.array(5), "d": np.arange(2)}
        first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
        save_state(first, state)
        save_state(second, read_state(first))
        assert first.read_bytes() == second.read_bytes()

    def test_pairs_of_name_and_array_ordered_dicts_and_numpy_scalars(self, tmp_path):
        content = collections.OrderedDict(a=("conv_0.w_0", np.arange(3)), b=np.float32(2.5))
        state = read_state(dump(tmp_path / "a.pdparams", content))
        assert state["a"].tolist() == [0, 1, 2] and float(state["b"]) == 2.5

    def test_arrays_over_a_gigabyte_that_paddle_cut_to_pieces(self, tmp_path):
        whole = np.arange(6, dtype=np.float32).reshape(2, 3)
        content = {
            "small": np.zeros(1),
            "big@@.0": whole.ravel()[:4],
            "big@@.1": whole.ravel()[4:],
            "UnpackBigParamInfor@@": {"big": {"OriginShape": (2, 3), "slices": ["big@@.0", "big@@.1"]}},
            "StructuredToParameterName@@": {"small": "s", "big": "b"},
        }
        state = read_state(dump(tmp_path / "a.pdparams", content, protocol=2))
        assert set(state) == {"small", "big"} and np.array_equal(state["big"], whole)

    def test_bfloat16_becomes_float32(self, tmp_path):
        """Paddle saves it as uint16. 0x3FA0 is 1.25: sign 0, exponent 127, and the fraction 1/4."""
        state = read_state(dump(tmp_path / "a.pdparams", {"a": np.array([0x3F80, 0x3FA0, 0xC000], np.uint16)}))
        assert state["a"].dtype == np.float32 and state["a"].tolist() == [1.0, 1.25, -2.0]

    def test_a_hostile_file_is_refused(self, tmp_path):
        mark = tmp_path / "mark"
        path = dump(tmp_path / "a.pdparams", {"weight": Calls(os.system, f"touch {mark}")})
        with pytest.raises(UserError, match="a.pdparams: refused: the file refers to posix.system, .* that you trust"):
            read_state(path)
        assert not mark.exists()

    @pytest.mark.parametrize(
        "content, complaint",
        [
            (b"", "the file is empty"),
            (b"<html>404 Not Found</html>", "damaged, or not a weight file"),
            (pickle.dumps({"a": np.zeros(999)})[:500], "damaged, or not a weight file"),
            (pickle.dumps([1, 2]), "holds a list, not named arrays"),
            (pickle.dumps({"a": "text"}), "'a' is a str, not an array"),
            (pickle.dumps({"LR_Scheduler": {"last_epoch": 3}}), "'LR_Scheduler' is a dict"),
            (pickle.dumps({3: np.zeros(1)}), "refused: a name in the file is of the type int, not text"),
            (pickle.dumps({"a": np.array([None])}), "refused: the file has values of the type 'O8'"),
            (pickle.dumps({"UnpackBigParamInfor@@": [1]}), "UnpackBigParamInfor@@ is a list"),
            (split_file({"a": 1}), "no names of pieces and no shape for 'a'"),
            (split_file({"a": {"slices": ["b"], "OriginShape": 1}}), "no names of pieces and no shape for 'a'"),
            (split_file({"a": {"slices": [], "OriginShape": (4,)}}), "no names of pieces and no shape for 'a'"),
            (split_file({"a": {"slices": ["b"], "OriginShape": (2, -2)}}), "no names of pieces and no shape for 'a'"),
            (split_file({"a": {"slices": ["b"], "OriginShape": [2**2000] * 999}}), "no names of pieces and no shape"),
            (split_file({"a": {"slices": ["c"], "OriginShape": (4,)}}), "'a' has the piece 'c', which is missing"),
            (split_file({"a": {"slices": ["b"], "OriginShape": (5,)}}), "'a' has 4 numbers in its pieces"),
            (split_file({"a": {"slices": ["b"] * 1000, "OriginShape": (4000,)}}), "'a' has 4 numbers in its pieces"),
            (split_file({"a": {"slices": ["b", "f"], "OriginShape": (5,)}}), "'a' has pieces of several types"),
            (pickle.dumps({"x" * 10**6: "text"}), "^.{0,300}$"),
            (many_names(), "the same array has many names"),
        ],
        ids=lambda value: ascii(value)[:30],
    )
    def test_broken_files(self, tmp_path, content, complaint):
        path = tmp_path / "a.pdparams"
        path.write_bytes(content)
        with pytest.raises(UserError, match=complaint) as raised:
            read_state(path)
        assert str(path) in str(raised.value)

    def test_tied_weights_have_two_names(self, tmp_path):
        array = np.zeros(1000)
        assert set(read_state(dump(tmp_path / "a.pdparams", {"a": array, "b": array}))) == {"a", "b"}

    def test_only_files_are_read(self, tmp_path):
        os.mkfifo(tmp_path / "a.pdparams")
        for path in (tmp_path / "a.pdparams", "/dev/zero", tmp_path):
            with pytest.raises(UserError, match="not a file, but a folder or a device"):
                read_state(path)
        with pytest.raises(UserError, match="is not a path"):
            read_state("a\0.pdparams")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(UserError, match="No such file"):
            read_state(tmp_path / "a.pdparams")


class TestSafetensors:
    STATE = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "integer": np.array([-3], np.int64),
        "flag": np.array([True, False]),
        "number": np.array(2.5, np.float16),
        "nothing": np.zeros((0, 4), np.uint8),
    }

    def test_what_is_saved_is_read(self, tmp_path):
        path = tmp_path / "folder" / "a.safetensors"
        save_state(path, self.STATE)
        state = read_state(path)
        assert set(state) == set(self.STATE) and read_state(resolve(path)).keys() == state.keys()
        for key, array in self.STATE.items():
            assert state[key].dtype == array.dtype and state[key].flags.writeable
            np.testing.assert_array_equal(state[key], array)

    def test_what_other_programs_save(self, tmp_path):
        """Eight bytes: the length of the JSON text; then the text and the numbers. 0x3FA0 is 1.25 in bfloat16."""
        header = b'{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
        path = tmp_path / "a.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f\xa0\x3f")
        state = read_state(path)
        assert set(state) == {"a"} and state["a"].dtype == np.float32 and state["a"].tolist() == [1.0, 1.25]

    @pytest.mark.parametrize(
        "header, complaint",
        [
            (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "damaged, or not a weight file"),
            (b'{"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,4]}}', "damaged, or not a weight file"),
            (b'{"a":{"dtype":"U64","shape":[0],"data_offsets":[0,0]}}', "'a' has numbers of the type U64"),
            (b"[" * 100_000, "damaged, or not a weight file"),
            (b'{"a":{' + b" " * (9 << 20), "its header has more than 8,388,608 bytes"),
            (b'{"a":{}}', "damaged, or not a weight file"),
            (b"\xff", "damaged, or not a weight file"),
        ],
        ids=lambda value: ascii(value)[:30],
    )
    def test_broken_files(self, tmp_path, header, complaint):
        path = tmp_path / "a.safetensors"
        for content in (len(header).to_bytes(8, "little") + header, b"\xff" * 8 + header, pickle.dumps({})):
            path.write_bytes(content)
            with pytest.raises(UserError, match=f"a.safetensors: ({complaint}|damaged)") as raised:
                read_state(path)
            assert len(str(raised.value)) < 500


class TestConverting:
    def test_there_and_back(self, tmp_path):
        state = {"a": np.arange(3.0), "b": np.array([1], np.int64)}
        save_state(tmp_path / "a.pdparams", state)
        convert_weights(tmp_path / "a", tmp_path / "b.safetensors")
        convert_weights(tmp_path / "b.safetensors", tmp_path / "c.pdparams")
        found = paddle.load(str(tmp_path / "c.pdparams"), return_numpy=True)
        assert {key: array.tolist() for key, array in found.items()} == {"a": [0.0, 1.0, 2.0], "b": [1]}

    def test_other_names_and_folders_are_refused(self, tmp_path):
        save_state(tmp_path / "a.pdparams", {"a": np.zeros(1)})
        with pytest.raises(UserError, match="must end with .pdparams or .safetensors"):
            convert_weights(tmp_path / "a.pdparams", tmp_path / "b.npz")
        with pytest.raises(UserError, match="cannot write .*: File exists"):
            convert_weights(tmp_path / "a.pdparams", tmp_path / "a.pdparams" / "b.pdparams")


class TestFiles:
    def test_a_file_that_cannot_be_finished_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "a"
        path.write_bytes(b"old")
        with pytest.raises(OSError):
            with atomic_file(path) as file:
                file.write(b"half of the new o")
                raise OSError(28, "No space left on device")
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]

    def test_a_folder_replaces_the_old_one_whole(self, tmp_path):
        for name in ("one", "two"):
            with atomic_folder(tmp_path / "a") as folder:
                (folder / name).touch()
        assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["two"]

    def test_leftovers_of_killed_writers_are_removed_and_nothing_else(self, tmp_path):
        (tmp_path / ".a.123.tmp").touch()
        (tmp_path / ".b.7.tmp").mkdir()
        (tmp_path / "c.tmp").touch()
        remove_leftovers(tmp_path)
        assert os.listdir(tmp_path) == ["c.tmp"]


class Server(ThreadingHTTPServer):
    """Serves one content; can cut answers short, change versions, and know Range or not."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version, self.cuts, self.ranges, self.status = content, '"1"', [], True, 200
        self.requests = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/models/net.pdparams"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if server.ranges and self.headers.get("Range") and self.headers.get("If-Range") == server.version:
            start = int(self.headers["Range"][len("bytes=") : -1])
        self.send_response(206 if start else 200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.version)
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("PPDET_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serving = Server(bytes(range(256)) * 40)
    yield serving
    serving.shutdown()
    serving.server_close()


class TestDownloads:
    def test_a_url_is_downloaded_once(self, server):
        path = resolve(server.url)
        assert path.read_bytes() == server.content and path.name == "net.pdparams"
        assert resolve(server.url) == path and len(server.requests) == 1

    def test_equal_names_of_different_places_do_not_collide(self, server):
        first = resolve(server.url)
        assert resolve(server.url.replace("/models/", "/others/")) != first

    def test_a_broken_connection_is_taken_up_where_it_broke(self, server):
        server.cuts = [1000, 500]
        assert resolve(server.url).read_bytes() == server.content
        assert server.requests == [None, "bytes=1000-", "bytes=1500-"]

    def test_and_so_is_one_of_an_earlier_run(self, server):
        server.cuts = [100, 100, 100]
        with pytest.raises(UserError, match="closed after 300 of 10240 bytes.*the download resumes"):
            resolve(server.url)
        assert resolve(server.url).read_bytes() == server.content
        assert server.requests[-1] == "bytes=300-"

    def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(self, server):
        server.cuts = [100, 0, 0]
        with pytest.raises(UserError):
            resolve(server.url)
        server.content, server.version = b"new" * 100, '"2"'
        assert resolve(server.url).read_bytes() == server.content

    def test_a_server_without_ranges_starts_again(self, server):
        server.ranges, server.cuts = False, [100]
        assert resolve(server.url).read_bytes() == server.content

    def test_a_right_checksum(self, server):
        digest = hashlib.sha256(server.content).hexdigest()
        assert resolve(f"{server.url}#sha256={digest.upper()}").is_file()

    def test_a_wrong_checksum_leaves_nothing_behind(self, server):
        with pytest.raises(UserError, match="sha256 is [0-9a-f]{64}, but should be 0000"):
            resolve(f"{server.url}#sha256={'0' * 64}")
        with pytest.raises(UserError, match="not in the cache"):
            resolve(server.url, offline=True)

    def test_a_malformed_checksum(self, server):
        with pytest.raises(UserError, match="64 hexadecimal digits"):
            resolve(f"{server.url}#sha256=abc")

    def test_an_unknown_checksum_is_logged(self, server, caplog, monkeypatch):
        monkeypatch.setattr(weights.get_logger(), "propagate", True)
        resolve(server.url)
        assert f"no checksum is given; the file has sha256={hashlib.sha256(server.content).hexdigest()}" in caplog.text

    def test_offline_uses_the_cache_and_says_where_the_file_would_have_to_be(self, server):
        with pytest.raises(UserError, match=f"save it as .*127.0.0.1_{server.server_port}/models/net.pdparams"):
            resolve(server.url, offline=True)
        resolve(server.url)
        assert resolve(server.url, offline=True).is_file()

    def test_not_found_is_not_tried_again(self, server):
        server.status = 404
        with pytest.raises(UserError, match="the server answers 404"):
            resolve(server.url)
        assert len(server.requests) == 1

    def test_no_network(self, server):
        server.shutdown()
        server.server_close()
        with pytest.raises(UserError, match="cannot download .* refused.*check the network.*save it as"):
            resolve(server.url)

    def test_a_cache_that_cannot_be_written(self, server, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("PPDET_REPRO_CACHE", str(tmp_path / "file"))
        with pytest.raises(UserError, match="free disk space, or set PPDET_REPRO_CACHE"):
            resolve(server.url)

    def test_many_at_once_download_once(self, server):
        threads = [threading.Thread(target=resolve, args=(server.url,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 1

    def test_ppdet_urls_are_paddledetections(self):
        with pytest.raises(UserError, match="https://paddledet.bj.bcebos.com/models/x.pdparams: not in the cache"):
            resolve("ppdet://models/x.pdparams", offline=True)


class TestPaths:
    def test_the_ending_may_be_left_out_and_a_checkpoints_folder_stands_for_its_model(self, tmp_path):
        (tmp_path / "epoch_0001").mkdir()
        for path in (tmp_path / "model_final.pdparams", tmp_path / "epoch_0001" / "model.pdparams"):
            path.touch()
        assert resolve(tmp_path / "model_final") == tmp_path / "model_final.pdparams"
        assert resolve(tmp_path / "model_final.pdparams") == tmp_path / "model_final.pdparams"
        assert resolve(str(tmp_path / "epoch_0001")) == tmp_path / "epoch_0001" / "model.pdparams"

    def test_a_missing_file_says_what_was_looked_for(self, tmp_path):
        with pytest.raises(UserError, match=r"there are no such weights; looked for .*x, .*x.pdparams"):
            resolve(tmp_path / "x")
