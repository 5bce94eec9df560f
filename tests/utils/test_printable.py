"""Names that would control a terminal are shown with escapes, wherever they are printed or logged."""

from __future__ import annotations

import logging

import pytest

from ppdet_repro.core.config import load_config, show
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.printable import printable, printable_line
from ppdet_repro.utils.table import text_table

HOSTILE = "cat\x1b]0;title\x07\x9b2J\r\u202egnp\ud800\x7f"
ESCAPED = r"cat\x1b]0;title\x07\x9b2J\r\u202egnp\ud800\x7f"


def test_what_is_escaped_and_what_stays():
    assert printable(HOSTILE) == ESCAPED == printable(ESCAPED)
    assert printable("Löwe 猫 🐈 \\ a\tb\nc") == "Löwe 猫 🐈 \\ a\tb\nc"
    assert printable_line("a\tb\nc") == r"a\tb\nc"
    printable(HOSTILE).encode("utf-8")


def test_errors(capsys):
    def fail():
        raise UserError(f"{HOSTILE}: no such class")

    with pytest.raises(SystemExit):
        run_command(fail)
    assert capsys.readouterr().err == f"error: {ESCAPED}: no such class\n"


def test_logs():
    formatter = get_logger().handlers[0].formatter
    record = logging.LogRecord("name", logging.INFO, "file", 1, "%s", (HOSTILE,), None)
    assert formatter.format(record).endswith(f"INFO: {ESCAPED}")


def test_tables():
    rows = text_table(["class", HOSTILE], [[HOSTILE + "\n", 1]]).splitlines()
    assert len(rows) == 3 and ESCAPED in rows[0] and ESCAPED + r"\n" in rows[2]


def test_configs(tmp_path):
    (tmp_path / "a.yml").write_text('weights: "\\e[2J\\nb"\nDecode: {}\n')
    text = show(load_config(tmp_path / "a.yml"))
    assert "\x1b" not in text and r"\e[2J\nb" in text
