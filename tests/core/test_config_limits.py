"""Hostile configs: one clear error with file and line, in bounded time and memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_components import write

from ppdet_repro.core.config import load_config
from ppdet_repro.core.config.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_FILES, MAX_VALUES
from ppdet_repro.utils.errors import UserError


def refusal(text, *overrides):
    """The message about a config."""
    with pytest.raises(UserError) as raised:
        load_config(write("a.yml", text), overrides)
    return str(raised.value)


def short(value):
    """The name of a test with a long value."""
    return ascii(value)[:20]


def lines(first, template, count):
    return first + "".join(template.format(i=i, before=i - 1) for i in range(1, count))


ALIASES = lines("a0: &a0 [x, x]\n", "a{i}: &a{i} [*a{before}, *a{before}]\n", 40)  # 2**40 texts
MERGES = lines("a0: &a0 {k: 1}\n", "a{i}: &a{i} {{<<: [*a{before}, *a{before}]}}\n", 40)
CHAIN = lines("a0: &a0 [x]\n", "a{i}: &a{i} [*a{before}]\n", 100)


class TestSize:
    @pytest.mark.parametrize(
        "text", [ALIASES, MERGES, "a: [" + "x, " * MAX_VALUES + "]"], ids=["alias", "merge", "list"]
    )
    def test_values_are_counted_wherever_an_alias_stands_for_them(self, text):
        assert f"more than {MAX_VALUES:,} values" in refusal(text)

    def test_aliases_are_no_way_around_the_depth(self):
        assert "aliases make more than 40 lists and mappings" in refusal(CHAIN)

    @pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 1000, "- " * 10_000, "? " * 10_000], ids=short)
    def test_depth(self, text):
        assert refusal(text) == f"a.yml:1: not valid YAML: more than {MAX_DEPTH} lists and mappings in each other"

    def test_bytes(self):
        assert refusal("a: " + "x" * 5_000_000) == f"a.yml: more than {MAX_BYTES:,} bytes"

    def test_all_files_of_a_config_share_the_limits(self):
        write("b.yml", "weights: " + "x" * (MAX_BYTES // 2))
        write("c.yml", "pretrain_weights: " + "x" * (MAX_BYTES // 2))
        assert refusal("_BASE_: [b.yml, c.yml]") == f"c.yml: more than {MAX_BYTES:,} bytes (named by _BASE_ in a.yml)"

    def test_files(self):
        """Each file is included twice by the next: 2**20 in all."""
        write("0.yml", "epoch: 1")
        for i in range(1, 21):
            write(f"{i}.yml", f"_BASE_: [{i - 1}.yml, {i - 1}.yml]")
        assert f"more than {MAX_FILES} files in one config" in refusal("_BASE_: 20.yml")

    def test_a_large_section_that_is_used_often(self):
        """2000 arguments for each of 1000 uses."""
        section = "Resize: {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}\n"
        uses = "TrainReader: {sample_transforms: [" + "Resize: {}, " * 1000 + "]}"
        assert "more than 100,000 values; those of a section count for each use of it" in refusal(section + uses)
        section = "Resize: {target_size: [" + "1, " * 2000 + "]}\n"
        assert "more than 100,000 values; those of a section count for each use of it" in refusal(section + uses)

    def test_tags(self):
        text = "%TAG !a! " + "x" * 10_000 + "\n---\na: !a!x y"
        assert refusal(text) == "a.yml:3: not valid YAML: a tag of more than 100 characters"

    def test_many_unknown_keys_have_a_short_message(self):
        message = refusal(lines("", "TrainReade{i}: 1\n", 5000)).splitlines()
        assert len(message) == 51 and message[-1] == "... and 4,949 more problems"
        assert message[0] == "a.yml:1: no component 'TrainReade1'; did you mean 'TrainReader'?"

    def test_long_keys_and_values_have_short_messages(self):
        assert len(refusal("x" * 100_000 + ": 1")) < 1100
        assert len(refusal("epoch: " + "x" * 100_000)) < 300
        assert len(refusal("epoch: [" + "[x], " * 1000 + "]")) < 300


class TestFiles:
    @pytest.mark.parametrize("name", ["/dev/zero", "fifo", "."])
    def test_only_files_are_read(self, name):
        os.mkfifo("fifo")
        assert refusal(f"_BASE_: {name}").endswith("not a file, but a folder or a device (named by _BASE_ in a.yml)")

    @pytest.mark.parametrize(
        "name, complaint",
        [
            ("~nosuchuser/a.yml", "a.yml:2: _BASE_: '~nosuchuser/a.yml' is not a path: there is no such user"),
            ('"a\\0"', "a.yml:2: a text contains a NUL character or half a surrogate pair: 'a\\x00'"),
            ('"\\ud800"', "a.yml:2: a text contains a NUL character or half a surrogate pair: '\\ud800'"),
            ("x" * 5000, "a.yml:2: _BASE_: '" + "x" * 100 + "' is not a path: it has more than 4096 bytes"),
            ("x" * 300, "x" * 300 + ": cannot be read (named by _BASE_ in a.yml): File name too long"),
            ("[3]", "a.yml:2: _BASE_ must be a file name or a list of file names, got 3"),
        ],
        ids=short,
    )
    def test_names_that_no_file_can_have(self, name, complaint):
        assert refusal(f"epoch: 1\n_BASE_: {name}").startswith(complaint)

    @pytest.mark.parametrize("name", ["~nosuchuser/a.yml", "a\0.yml", "\ud800.yml"])
    def test_they_are_refused_on_the_command_line_too(self, name):
        with pytest.raises(UserError, match="is not a path"):
            load_config(name)

    def test_the_line_of_bytes_that_are_not_utf8(self):
        Path("a.yml").write_bytes(b"epoch: 1\nweights: \xff\n")
        with pytest.raises(UserError, match="^a.yml:2: not text in UTF-8: invalid start byte$"):
            load_config("a.yml")


class TestValues:
    @pytest.mark.parametrize(
        "value, complaint",
        [
            ('!!int ""', "'' is not a value of the type int"),
            ("!!int x", "'x' is not a value of the type int"),
            ("!!bool x", "'x' is not a value of the type bool"),
            ("!!float x", "'x' is not a value of the type float"),
            ("!!timestamp x", "'x' is not a value of the type timestamp"),
            ("!!seq x", "'x' is not a list or a mapping"),
            ("!!set x", "'x' is not a list or a mapping"),
            ("2001-99-99", "'2001-99-99' is not a value of the type timestamp"),
            ("9" * 20, "an integer must have at most 64 bits, got 99999999999999999999"),
            ("9" * 5000, "a number of more than 100 characters; quote it if it is a text"),
            ("1" + ":1" * 50_000, "a number of more than 100 characters; quote it if it is a text"),
        ],
        ids=short,
    )
    def test_values_that_do_not_fit_their_type(self, value, complaint):
        assert refusal(f"seed: 1\nepoch: {value}") == f"a.yml:2: {complaint}"
        message = refusal("seed: 1", f"epoch={value}")
        assert message.startswith("command line: override 'epoch=") and message.endswith(f": {complaint}")

    @pytest.mark.parametrize(
        "value", ["apply:os.system [exit]", "apply:os.system {args: [exit]}", "apply:os.system exit"]
    )
    def test_code(self, value):
        assert "a.yml:1: " in refusal(f"weights: !!python/object/{value}")

    @pytest.mark.parametrize("key", ["²", "9" * 5000, "-1", "٣"], ids=short)
    def test_an_index_is_a_small_number(self, key):
        assert "levels has 2 items, counted from 0, but no" in refusal(
            "ToyBackbone: {levels: [0, 1]}", f"ToyBackbone.levels.{key}=1"
        )

    def test_a_long_path(self):
        assert "its path has more than 40 keys" in refusal("epoch: 1", "a" + ".a" * 10_000 + "=1")
