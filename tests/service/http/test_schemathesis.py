"""Schemathesis sends the service what its OpenAPI document allows and forbids, and what follows from its answers.

Every answer has to be one that the document describes, what the schema allows has to be accepted, what it forbids refused, what
was deleted has to be gone, and nothing may be answered with a 5xx.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.http.security.keys import new_key
from tests.service.processes import ROOT, environment, serving

SECONDS = 60
SEED = 18


def test_every_answer_is_the_one_that_the_openapi_document_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, entry = new_key("schemathesis", ["read", "write", "admin"])
    monkeypatch.setenv("FRESHET_API_KEYS", entry)
    config, report = tmp_path / "shop.toml", tmp_path / "report.json"
    config.write_text((ROOT / "examples/shop.toml").read_text().replace("lmdb:///tmp/freshet-shop", f"lmdb://{tmp_path}/data"))
    with serving(config, tmp_path) as service:
        options = ["--max-time", str(SECONDS), "--seed", str(SEED), "-H", f"X-API-Key: {key}", "--no-color"]
        options += ["--report-json-path", str(report)]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(Path(__file__).parent / "schemathesis.toml")),
                *("run", f"{service.url}/openapi.json", *options),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment(),
        )
        said = done.stdout[-20_000:] + done.stderr
        assert service.process.poll() is None, service.said()
        assert done.returncode == 0, said
    found = json.loads(report.read_text())
    assert found["operations"]["tested"] == found["operations"]["total"], said
    assert {found["phases"][phase]["status"] for phase in ("coverage", "fuzzing", "stateful")} == {"success"}, said
