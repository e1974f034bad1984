"""Every example config works, and so does every command in the README."""

from __future__ import annotations

import json
import re
import shlex
import time
import tomllib
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from pyarrow import parquet

from service import config as configs
from service.evaluation.replay import replay
from service.process.runtime import build_pipeline
from tests.service.processes import DEADLINE, serving

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_can_be_built(path: Path) -> None:
    assert build_pipeline(configs.load(path)).nbytes > 0


def recorded(folder: Path, name: str) -> Path:
    """A small file in the format that an example reads."""
    if name in ("ml100k", "sequential"):
        (folder / "u.data").write_text("".join(f"{n % 9}\t{n % 7}\t{1 + n % 5}\t{1000 + n}\n" for n in range(300)))
        return folder / "u.data"
    rows = range(300)
    columns = {"user": [n % 9 for n in rows], "item": [n % 7 for n in rows], "label": [n % 2 for n in rows]}
    columns |= {"ctx": [n % 3 for n in rows], "useg": [n % 9 % 2 for n in rows], "icat": [n % 7 % 3 for n in rows]}
    parquet.write_table(pa.table(columns | {"ts": [float(n) for n in rows]}), folder / "clicks.parquet")
    return folder / "clicks.parquet"


@pytest.mark.parametrize("name", ["ml100k", "clicks", "deep", "dsl", "reloop2", "sequential"])
def test_the_replay_examples_replay(name: str, tmp_path: Path) -> None:
    config = configs.load(ROOT / "examples" / f"{name}.toml")
    stream = config.stream.model_copy(update={"url": f"file:{recorded(tmp_path, name)}"})
    assert replay(config.model_copy(update={"stream": stream})).rows == 300


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_names_commands_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", "\n".join(blocks("sh"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for path in re.findall(r"\b(?:examples|docs|benchmarks)/[\w./-]+", README):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_the_readme_shows_the_answers_to_its_requests(tmp_path: Path) -> None:
    """The curl commands of the README, sent to a service with its config."""
    path = re.findall(r"freshet serve --config (\S+)", README)[0]
    config = tmp_path / "shop.toml"
    config.write_text((ROOT / path).read_text().replace("/tmp/freshet-shop", str(tmp_path / "data")))
    tomllib.loads(config.read_text())
    shown = [json.loads(block) for block in blocks("json")]
    commands = [shlex.split(block) for block in blocks("sh") if block.startswith("curl")]
    assert len(commands) == len(shown) == 2
    with serving(config, tmp_path) as process, httpx.Client(base_url=process.url, timeout=DEADLINE) as client:
        for command, expected in zip(commands, shown, strict=True):
            path = re.sub(r"^http://localhost:\d+", "", next(word for word in command if word.startswith("http")))
            headers = dict(command[at + 1].split(": ") for at, word in enumerate(command) if word == "-H")
            answer = client.post(path, content=command[command.index("-d") + 1], headers=headers)
            assert answer.status_code in (200, 202), answer.text
            learned(client)
            assert shape(answer.json()) == shape(expected)


def learned(client: httpx.Client) -> None:
    """Wait until everything has been learned."""
    until = time.monotonic() + DEADLINE
    while client.get("/v1/status").json()["lag"] and time.monotonic() < until:
        time.sleep(0.01)


def shape(document: object) -> object:
    """Keys and types of a document: scores and ids may differ."""
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items()}
    if isinstance(document, list):
        return [shape(value) for value in document]
    return type(document).__name__
