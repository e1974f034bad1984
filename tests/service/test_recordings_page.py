"""The examples of docs/recordings.md: its files are written, its commands are run, and their output is what the page says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from service import cli

PAGE = Path(__file__).parents[2] / "docs" / "recordings.md"
BLOCK = re.compile(r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed, checked = "", 0
    for block in BLOCK.finditer(PAGE.read_text()):
        text = block["text"]
        if block["title"]:
            Path(block["title"]).write_text(text)
        elif block["language"] == "sh":
            monkeypatch.setattr(sys, "argv", text.split())
            capfd.readouterr()
            with pytest.raises(SystemExit):
                cli.main()
            output = capfd.readouterr()
            printed = output.out + output.err
        elif block["language"] == "text":
            assert text.strip() in printed
            checked += 1
        else:
            said, shown = json.loads(printed), json.loads(text)
            assert {name: said[name] for name in shown} == shown
            checked += 1
    assert checked == 6
