"""The page for beginners works as it stands: its files are written and its commands are run, in order.

Its environment is a new one, made in a copy of the repository. It finds the dependencies where the tests have them.
Freshet itself is built and installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "getting_started.md"
PACKAGES = ("streams", "memory", "learners", "service", "freshet")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(port: int, service: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert service.poll() is None, "the service ended"
        try:
            urllib.request.urlopen(f"http://localhost:{port}/readyz")
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the service is not ready")


def files(folder: Path) -> set[str]:
    """Files of Freshet's packages in a folder, without what is compiled from them."""
    found = (file for package in PACKAGES for file in (folder / package).rglob("*") if file.is_file())
    return {str(file.relative_to(folder)) for file in found if "__pycache__" not in file.parts}


def clone(folder: Path) -> None:
    """Copy what an installation is built from."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)


def install(commands: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the page's commands that make an environment and install Freshet in it, without the network."""
    create, rest = commands.split("\n", 1)
    # A new environment of Python 3.11 comes with a setuptools that is too old. It would hide the one that the tests have.
    create += "\n.venv/bin/pip uninstall --quiet --yes --disable-pip-version-check setuptools"
    subprocess.run(["bash", "-ec", create], cwd=folder, env=environment, check=True, timeout=300)
    (own,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    # The option of pip is off where its variable is false.
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_COMPILE": "1"}
    done = subprocess.run(
        ["bash", "-ec", f"{rest}\ncommand -v freshet"],
        cwd=folder,
        env=environment | offline,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / ".venv" / "bin" / "freshet")
    assert files(own) == files(ROOT)
    take_compiled(own)


def take_compiled(installed: Path) -> None:
    """Let the installation have the functions that numba has compiled here: it knows a source by its time and size."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.nb[ci]"):
            copy = installed / file.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(file, copy)
        for source in (ROOT / package).rglob("*.py"):
            shutil.copystat(source, installed / source.relative_to(ROOT))


def test_the_page_leads_from_a_clone_to_a_recommendation(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "freshet"
    clone(folder)
    folders = [str(folder / ".venv" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    # With PYTHONPATH, or with variables of pip, another Freshet might be found.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("PIP_")}
    environment = kept | {"PATH": os.pathsep.join(folders)}
    service: subprocess.Popen[bytes] | None = None
    output, installed = "", False
    try:
        for language, title, text in BLOCK.findall(PAGE.read_text()):
            text = text.replace("8000", str(port)).replace("/tmp/freshet-plays", str(tmp_path / "plays"))
            if title:
                (folder / title).write_text(text)
            elif "pip install" in text:
                install(text, folder, environment)
                installed = True
            elif text.startswith("freshet serve"):
                service = subprocess.Popen(["sh", "-c", f"exec {text}"], cwd=folder, env=environment)
                wait_until_ready(port, service)
            else:
                assert language == "sh"
                done = subprocess.run(
                    ["sh", "-ec", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, done.stderr
                output = done.stdout
    finally:
        if service is not None:
            service.send_signal(signal.SIGTERM)
            service.wait(30)
    assert installed
    assert len(json.loads(output)["items"]) == 3
    assert (folder / "out" / "replay.html").exists()
    assert "[ranker.fm]" in (folder / "best.toml").read_text()
