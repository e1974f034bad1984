"""Compares the estimators with obp and vw-estimators on the same inputs: with stored results, and live if installed.

``FRESHET_OPE_PEERS`` names the Python of an environment that has them (``tests/golden/ope_peers.py`` says how to make one).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from service.evaluation import estimators
from tests.service.evaluation.inputs import OPEN_BANDIT, PAIRS, Arrays, decisions, made_up, open_bandit

GOLDEN = Path(__file__).parents[2] / "golden"
PEERS = os.environ.get("FRESHET_OPE_PEERS")
INPUTS = ["made up", *("-".join(pair) for pair in PAIRS)]


def inputs(name: str) -> Arrays:
    if name == "made up":
        return made_up()
    if not OPEN_BANDIT.is_dir():
        pytest.skip(f"no Open Bandit sample in {OPEN_BANDIT}")
    return open_bandit(*name.split("-"))


def ours(given: Arrays) -> dict[str, float]:
    rows = decisions(given)
    ips, snips = estimators.ips(rows).value, estimators.snips(rows).value
    dm, dr = estimators.direct(rows).value, estimators.doubly_robust(rows).value
    return {"obp ips": ips, "obp snips": snips, "obp dm": dm, "obp dr": dr, "vw ips": ips, "vw snips": snips}


@pytest.mark.parametrize("name", INPUTS)
def test_the_estimators_equal_the_stored_results_of_their_peers(name: str) -> None:
    golden = json.loads((GOLDEN / "ope_peers.json").read_text())
    assert ours(inputs(name)) == pytest.approx(golden[name], rel=0, abs=1e-9)


@pytest.mark.skipif(PEERS is None, reason="FRESHET_OPE_PEERS names no environment with obp and vw-estimators")
@pytest.mark.parametrize("name", INPUTS)
def test_the_estimators_equal_their_installed_peers(name: str, tmp_path: Path) -> None:
    given = inputs(name)
    np.savez(tmp_path / "decisions.npz", **given)
    script = [str(PEERS), str(GOLDEN / "ope_peers.py"), str(tmp_path / "decisions.npz")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert ours(given) == pytest.approx(json.loads(done.stdout), rel=0, abs=1e-9)
