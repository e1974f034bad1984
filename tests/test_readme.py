"""README's annotated tree names every file of the packages, and no file that is not there."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("freshet", "service", "learners", "memory", "streams")
HIDDEN = {"__init__.py", "__main__.py"}


def in_readme() -> set[str]:
    """Paths of the tree: each line is indented below its folder."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index("## Inside") :].split("```\n")[1]
    found, folders = set(), []
    for line in block.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]
        found.add("".join(folders))
        assert len(line.split()) > 1, f"{name} has no annotation"
    return found


def test_the_tree_is_that_of_the_repository() -> None:
    files = {file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if file.name not in HIDDEN}
    expected = {str(file.relative_to(ROOT)) for file in files}
    tree = in_readme()
    assert {path for path in tree if path.endswith(".py")} == expected
    assert all((ROOT / path).exists() for path in tree)
