"""A missing faiss, or two of them, is named together with what installs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from memory.vectors.faiss_package import check_distributions

ROOT = Path(__file__).parents[3]


def test_two_distributions_are_refused_with_a_remedy() -> None:
    with pytest.raises(ImportError, match=r"both installed.*pip uninstall faiss-cpu faiss-gpu.*'freshet\[cpu\]'"):
        check_distributions(["faiss-gpu", "faiss-cpu"])
    for alone in ([], ["faiss-cpu"], ["faiss-gpu"]):
        check_distributions(alone)


def test_without_faiss_the_service_s_config_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from service.config import parse; from service.process.runtime import build_pipeline\n"
        "from learners.registry import ConfigError\n"
        "parse({'ranker': {'fm': {}}, 'rerankers': {}})\n"
        "try: build_pipeline(parse({'rerankers': {'reloop2': {}}}))\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "faiss: not installed; install 'freshet[cpu]', or 'freshet[gpu]'" in done.stdout, done.stderr
    assert "rerankers.reloop2" in done.stdout


def test_the_extras_install_one_each_and_no_other_extra_or_dependency_installs_either() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert [line.split(">")[0] for line in extras["cpu"] + extras["gpu"]] == ["faiss-cpu", "faiss-gpu"]
    others = [line for name, lines in extras.items() if name not in ("cpu", "gpu") for line in lines]
    assert not [line for line in others + project["dependencies"] if "faiss" in line]
