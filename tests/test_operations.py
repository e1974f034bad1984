"""The commands of docs/operations.md run, one after the other, as they stand there; and it names every alert."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()

FRESHET = """
import os, signal, subprocess, sys, time, urllib.request
command = [sys.executable, "-c", "from service.cli import main; main()", *sys.argv[1:]]
if sys.argv[1] != "serve":
    sys.exit(subprocess.run(command).returncode)
# A service runs until it is ready and has taken some events.
service = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
address = next(line for line in service.stderr if line.startswith("serving on ")).split()[2].rstrip(",")
event = b'{"type": "interaction", "user": "u%d", "item": "i%d", "kind": "click"}'
events = b"[" + b",".join(event % (n % 7, n % 11) for n in range(100)) + b"]"
while True:
    try:
        urllib.request.urlopen(address + "/readyz").read()
        break
    except OSError:
        time.sleep(0.1)
posted = urllib.request.Request(address + "/v1/events", events, {"Content-Type": "application/json"})
urllib.request.urlopen(posted).read()
service.send_signal(signal.SIGTERM)
print(service.stderr.read(), file=sys.stderr)
sys.exit(0 if service.wait() in (0, -15) else 1)
"""


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    def placed(text: str) -> str:
        return text.replace("/var/lib", f"{tmp_path}/var").replace("/backup", f"{tmp_path}/backup")

    (config,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "shop.toml").write_text(placed(config))
    (tmp_path / "freshet.py").write_text(FRESHET)
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "freshet"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/freshet.py" "$@"\n')
    wrapper.chmod(0o755)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 8
    script = tmp_path / "page.sh"
    script.write_text("set -ex\n" + placed("".join(blocks)))
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, textwrap.shorten(done.stderr[-3000:], 3000)
    assert re.search(r"events: \d+ records deleted", done.stdout)
    assert done.stdout.count("all checksums are right") == 3
    assert "retention: 1000000 records before the oldest checkpoint" in done.stdout


def test_the_page_names_every_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy" / "alerts.yml").read_text())
    assert len(alerts) >= 7
    missing = [alert for alert in alerts if f"| {alert} |" not in PAGE]
    assert missing == [], "add what to do to docs/operations.md"
