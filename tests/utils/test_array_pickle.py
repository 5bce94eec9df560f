"""Pickles of arrays: which are read, and which are refused before they do anything."""

from __future__ import annotations

import collections
import io
import os
import pickle

import numpy as np
import pytest

from ppdet_repro.utils.array_pickle import ArrayMachine, Damaged, Refused, load_arrays

PROTOCOLS = range(6)
RECONSTRUCT = np.zeros(0).__reduce__()[0]
SCALAR = np.float32(0).__reduce__()[0]
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
ADDRESS = b"\x41" * 8  # where there is no memory


def load(content):
    return load_arrays(io.BytesIO(content))


class Calls:
    """An object that makes whoever unpickles it call a function, and give its result a state."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype=np.float32).reshape(2, 3),
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
            np.arange(12, dtype=np.int8)[::3],
            np.arange(3, dtype=">f4"),
            np.array([True, False]),
            np.array(1.5),
            np.zeros((0, 4)),
            np.float16(2.5),
            np.int64(-3),
        ],
    )
    def test_an_array_comes_back(self, protocol, array):
        found = load(pickle.dumps(array, protocol)).value
        assert found.dtype == array.dtype.newbyteorder("=") and found.shape == array.shape
        np.testing.assert_array_equal(found, array)

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["<f4", ">f4"])
    def test_a_large_array_comes_back(self, protocol, dtype, order):
        array = np.asarray(np.arange(30_000).reshape(100, 300), dtype, order=order)
        found = load(pickle.dumps(array, protocol)).value
        assert found.flags.writeable and found.flags.aligned and found.dtype == np.float32
        np.testing.assert_array_equal(found, array)

    def test_dicts_lists_and_tuples(self, protocol):
        content = collections.OrderedDict(a=[np.arange(3)], b=("name", np.arange(2)), c={"d": 1})
        found = load(pickle.dumps(content, protocol))
        assert list(found) == ["a", "b", "c"] and found["c"] == {"d": 1}
        assert found["a"][0].value.tolist() == [0, 1, 2] and found["b"][1].value.tolist() == [0, 1]

    def test_an_array_that_occurs_twice_is_one(self, protocol):
        array = np.arange(3)
        first, second = load(pickle.dumps([array, array], protocol))
        assert first is second


def test_a_pickle_of_python_2():
    """Its bytes are texts of eight-bit characters."""
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04\x01\x00\xff\xfftb."
    )
    assert load(content).value.tolist() == [1, -1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestHostile:
    @pytest.mark.parametrize(
        "hostile",
        [
            lambda mark: Calls(os.system, f"touch {mark}"),
            lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
            lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
            lambda mark: Calls(open, str(mark), "w"),
            lambda mark: Calls(np.save, str(mark), 1),
            lambda mark: Calls(np.load, str(mark), None, True),
            lambda mark: Calls(getattr, "text", "join"),
            lambda mark: Calls(RECONSTRUCT, np.matrix, (0,), b"b"),
            lambda mark: {"weight": [Calls(os.mkdir, str(mark))]},
        ],
    )
    def test_other_names_are_refused(self, tmp_path, hostile, protocol):
        mark = tmp_path / "mark"
        content = pickle.dumps(hostile(mark), protocol)
        with pytest.raises(Refused, match="the file refers to "):
            load(content)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["O", "O8", "V8", "U1", "S8", "M8[s]", "c8", "f4,O", "(2,)f4", "float32"])
    def test_types_that_are_not_numbers_are_refused(self, name, protocol):
        with pytest.raises(Refused, match="the file has values of the type "):
            load(pickle.dumps(Calls(np.dtype, name), protocol))

    @pytest.mark.parametrize("flags", [0, 1, 63])
    def test_addresses_are_not_followed(self, flags, protocol):
        """With such flags, NumPy takes an address in the file for one of an object; the process may crash."""
        state = (3, "|", None, None, None, -1, -1, flags)
        objects = Calls(np.dtype, "O8", False, True, state=state)
        number = Calls(np.dtype, "f8", False, True, state=state)
        array = Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), objects, False, ADDRESS))
        for hostile in (Calls(SCALAR, objects, ADDRESS), array, Calls(FROM_BUFFER, ADDRESS, objects, (1,), "C")):
            with pytest.raises(Refused, match="the file has values of the type 'O8'"):
                load(pickle.dumps(hostile, protocol))
        flagged = load(pickle.dumps(Calls(SCALAR, number, ADDRESS), protocol)).value
        assert flagged.dtype.flags == np.dtype("f8").flags == 0

    def test_an_array_is_as_large_as_its_bytes(self, protocol):
        large = Calls(RECONSTRUCT, np.ndarray, (1 << 60,), b"b", state=(1, (1 << 40,), np.dtype("f8"), False, ADDRESS))
        for hostile in (large, Calls(FROM_BUFFER, ADDRESS, np.dtype("f8"), (2,), "C")):
            with pytest.raises(Damaged, match="an array of the shape .* has 8 bytes"):
                load(pickle.dumps(hostile, protocol))
        with pytest.raises(Damaged):
            load(pickle.dumps(Calls(bytes, 1 << 40), protocol))

    def test_an_array_without_a_state_has_no_value(self, protocol):
        assert load(pickle.dumps(Calls(RECONSTRUCT, np.ndarray, (1 << 60,), b"b"), protocol)).value is None

    def test_other_arguments_are_refused(self, protocol):
        with pytest.raises(Refused, match="an array whose type is a str"):
            load(pickle.dumps(Calls(SCALAR, "f4", ADDRESS), protocol))
        with pytest.raises(Refused, match="the file calls numpy.ndarray"):
            load(pickle.dumps(Calls(np.ndarray, (1 << 60,)), protocol))


def test_only_latin1_is_encoded():
    """GLOBAL _codecs encode, ("text", "rot13"), REDUCE"""
    with pytest.raises(Refused, match="the encoding 'rot13'"):
        load(b"\x80\x02c_codecs\nencode\nX\x04\x00\x00\x00textX\x05\x00\x00\x00rot13\x86R.")


@pytest.mark.parametrize("state", [b"}X\x01\x00\x00\x00xK\x01s", b"N}X\x01\x00\x00\x00xK\x01s\x86"])
@pytest.mark.parametrize("module, name", sorted(ArrayMachine(io.BytesIO()).names))
def test_functions_cannot_be_changed(module, name, state):
    """GLOBAL, {"x": 1} or (None, {"x": 1}), BUILD"""
    with pytest.raises(Refused, match="the file changes a function"):
        load(b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b.")


def array_program(count):
    """A program that makes a tuple; its last values are `count` arrays of the same 800 bytes."""
    head = b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85Rq\x00cnumpy.core.multiarray\n_reconstruct\nq\x01"
    data = b"B" + (800).to_bytes(4, "little") + bytes(800) + b"q\x02"
    return b"(" + head + data + b"h\x01)R(K\x01Kd\x85h\x00\x89h\x02tb" * count + b"t."


class TestBounds:
    """What a few bytes of a file could make of a machine with Python's rules."""

    def test_an_array_of_another_array(self):
        """tuple(array) would make an object of each of its numbers."""
        with pytest.raises(Refused, match="a tuple of a StoredArray"):
            load(pickle.dumps(Calls(tuple, np.zeros(9)), 4))

    @pytest.mark.parametrize("key", [1, 1.5, None, b"a", (), ((), ())])
    def test_names_are_texts(self, key):
        """The hash of ((x, x), (x, x)), forty times, takes hours."""
        with pytest.raises(Refused, match="a name in the file is of the type"):
            load(pickle.dumps({key: 1}))

    def test_the_numbers_of_an_array_are_in_the_file_once(self):
        assert load(array_program(1))[-1].value.shape == (100,)
        with pytest.raises(Refused, match="arrays with more numbers than the file"):
            load(array_program(3))

    def test_no_two_arrays_share_their_numbers(self):
        """BINBYTES, and twice _frombuffer of it; the file has enough bytes for both."""
        head = b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x00cnumpy.core.numeric\n_frombuffer\nq\x01"
        data = b"B" + (20_000).to_bytes(4, "little") + bytes(20_000)
        call = b"h\x01(h\x02h\x00(M\x20\x4etX\x01\x00\x00\x00CtR"
        assert load(b"(" + head + data + b"q\x02" + call + b"t.")[-1].value.shape == (20_000,)
        with pytest.raises(Refused, match="two arrays of the same numbers"):
            load(b"(" + head + data + data + b"q\x02" + call * 2 + b"t.")

    def test_an_array_that_occurs_again_takes_nothing(self):
        array = np.zeros(100)
        assert len(load(pickle.dumps([array] * 1000))) == 1000

    def test_objects_are_counted(self, monkeypatch):
        monkeypatch.setattr("ppdet_repro.utils.pickle_machine.MAX_INSTRUCTIONS", 100)
        assert load(b"(" + b"}" * 97 + b"t.") == ({},) * 97
        with pytest.raises(Refused, match="more than 100 values"):
            load(b"(" + b"}" * 98 + b"t.")

    def test_lists_in_each_other(self):
        content = load(b"]" * 200_000 + b"a" * 199_999 + b".")
        assert len(content) == 1

    @pytest.mark.parametrize(
        "content, complaint",
        [
            (b"\x80\x04B\xff\xff\xff\xff", "it ends too early"),  # four gigabytes of bytes
            (b"\x80\x04\x8e" + b"\xff" * 8, "it ends too early"),
            (b"\x80\x04\x8d" + b"\xff" * 8, "it ends too early"),
            (b"\x80\x04\x8b\xff\xff\xff\x7f", "is not an instruction"),  # an integer of two gigabytes
            (b"\x80\x02Nr\xff\xff\xff\xff.", "number 4294967295"),  # makes Python's machine allocate 64 GB
            (b"\x80\x04N2.", "is not an instruction"),  # DUP
            (b"\x80\x04.", "takes a value where there is none"),
            (b"\x80\x04N(.", "from before a mark"),
            (b"\x80\x04h\x00.", "its value number 0"),
            (b"\x80\x04}(Nu.", "a key has no value"),
            (b"\x80\x04Na.", "takes a value where there is none"),
            (b"\x80\x04NNa.", "adds values to a NoneType"),
            (b"\x80\x04NN\x93.", "a name that is not text"),
            (b"", "it ends too early"),
            (b"Vtext", "it ends too early"),
        ],
    )
    def test_damage(self, content, complaint):
        with pytest.raises(Damaged, match=complaint):
            load(content)

    def test_saved_values_are_not_looked_at_again_and_again(self):
        """Each call is five bytes, and each would look at all of the saved values."""
        pairs = b"]q\x01(" + b"X\x01\x00\x00\x00aN\x86" * 50_000 + b"e\x85q\x01"
        with pytest.raises(Refused, match="more than 500,000 values"):
            load(b"\x80\x02ccollections\nOrderedDict\nq\x00" + pairs + b"h\x00h\x01R" * 1000 + b".")
        values = b"(" + b"N" * 1000 + b"tq\x01"
        array = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00"
        with pytest.raises(Damaged, match="up to 5 arguments"):
            load(array + values + b"h\x00h\x01R.")
        with pytest.raises(Damaged, match="a state of another length"):
            load(array + b")R" + values + b"b.")

    @pytest.mark.parametrize("content", [b"I" + b"9" * 10**6 + b"\n.", b"L" + b"9" * 10**6 + b"L\n."], ids=["I", "L"])
    def test_long_integers(self, content):
        with pytest.raises(Refused, match="more than 600 digits"):
            load(content)

    @pytest.mark.parametrize("shape", [(-1,), (2, -4), (1,) * 33, (True,) * 8, 8, ("8",), (2.0, 4)])
    def test_shapes(self, shape):
        with pytest.raises(Damaged, match="the shape"):
            load(
                pickle.dumps(
                    Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, np.dtype("i1"), False, ADDRESS))
                )
            )
