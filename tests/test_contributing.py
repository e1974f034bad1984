"""The learner of CONTRIBUTING.md works with one new file and no other edit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the packages and the contract suite."""
    clone = tmp_path / "clone"
    # Compiled files are copied too, except those that are being written.
    without = shutil.ignore_patterns("static", "*.tmp.*", "*.pyc.*")
    for package in ("streams", "memory", "learners", "service"):
        shutil.copytree(ROOT / package, clone / package, ignore=without)
    (clone / "tests" / "learners").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "learners" / "test_contract.py", clone / "tests" / "learners")
    shutil.copy(ROOT / "pyproject.toml", clone)
    return clone


def run(clone: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_file_adds_a_learner(clone: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (clone / "learners" / "rankers" / "share.py").write_text(code)

    contract = run(clone, "-m", "pytest", "-q", "tests/learners/test_contract.py", "-k", "share")
    assert int(re.findall(r"(\d+) passed", contract)[0]) >= 10

    (clone / "share.toml").write_text("[ranker.share]\nprior = 0.05\n")
    rows = "".join(f"u{n},{'good' if n % 2 else 'bad'},{5 if n % 2 else 1},{n}\n" for n in range(400))
    (clone / "ratings.csv").write_text("user,item,stars,timestamp\n" + rows)
    (clone / "share.toml").write_text('[ranker.share]\nprior = 0.05\n[stream.columns]\nvalue = "stars"\n')
    printed = run(clone, "-m", "service", "replay", "ratings.csv", "--config", "share.toml", "--json")
    assert '"share"' in printed
    assert float(re.findall(r'"share": \{[^}]*?"auc": ([\d.]+)', printed)[0]) > 0.95
