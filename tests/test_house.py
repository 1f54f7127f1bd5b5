"""The shape of the repository: rooms, arrows, sizes. Measured here, so that it stays what docs/architecture.md says."""

import ast
from pathlib import Path

import pytest

from tiny import ROOT

LEFT_OUT = {"build", "tests", "benchmarks", "runs", "notebooks", "docs"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("*/*.py")])
    if path.relative_to(ROOT).parts[0] not in LEFT_OUT and not path.parts[-2].startswith(".") and path.name != "setup.py"
}
# Each room, and those that it may know besides the root.
ROOMS = {
    "kernels": set(), "checkpoints": set(), "corpora": {"checkpoints"}, "circuits": {"checkpoints", "corpora"},
    "programs": {"circuits", "kernels"}, "training": {"checkpoints", "corpora", "circuits", "kernels"}, "bridges": {"checkpoints", "corpora", "circuits", "training"},
    "convert": {"checkpoints", "corpora", "circuits", "training", "bridges", "publishing"},
    "viewer": {"checkpoints", "corpora", "circuits", "programs", "training", "bridges"},
    "publishing": {"checkpoints", "corpora", "circuits", "programs", "training", "bridges", "viewer"},
    "cli": {"checkpoints", "corpora", "circuits", "training", "bridges", "convert", "programs", "publishing", "viewer"},
}  # fmt: skip


def imports(module: str) -> set[str]:
    """What a module imports of ours, also inside of functions; not what is there for type checkers alone."""
    path = MODULES[module]
    package = list(path.relative_to(ROOT).parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for inner in ast.walk(node)
    }  # fmt: skip
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in typing:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for each in node.names:
                names = [".".join([*base, each.name]), ".".join(base) or "__init__"]
                found.add(next(name for name in names if name in MODULES))
    return found - {module}


GRAPH = {module: imports(module) for module in MODULES}


def test_there_are_no_circles_of_imports():
    state: dict[str, str] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert state.get(module) != "open", " -> ".join((*path, module))
        if module not in state:
            state[module] = "open"
            for other in GRAPH[module]:
                visit(other, (*path, module))
            state[module] = "done"

    for module in GRAPH:
        visit(module, ())


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_one_way(room):
    for module, known in GRAPH.items():
        if module.split(".")[0] == room:
            others = {other.split(".")[0] for other in known if other.split(".")[0] in ROOMS} - {room}
            assert others <= ROOMS[room], (module, others - ROOMS[room])


def test_root_modules_know_nothing_of_the_rooms():
    roots = [module for module in MODULES if "." not in module and not (ROOT / module).is_dir()]
    for module in roots:
        rooms = {other.split(".")[0] for other in GRAPH[module]} & set(ROOMS)
        assert not rooms or module in ("_auto", "__init__"), (module, rooms)
    assert len(roots) <= 13


def test_every_room_is_named_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ROOMS)
    for room in ROOMS:
        assert f"`{room}/`" in text, room


def sources() -> list[Path]:
    own = [*ROOT.glob("*.py"), *ROOT.glob("*/*.py"), *ROOT.glob("tests/*/*.py"), *ROOT.glob("viewer/*.js")]
    return [
        path
        for path in own
        if not {"build", "runs"} & set(path.relative_to(ROOT).parts) and not path.relative_to(ROOT).parts[0].startswith(".")
    ]


def test_files_are_under_500_lines():
    assert {path.name: n for path in sources() if (n := len(path.read_text(encoding="utf-8").splitlines())) >= 500} == {}


def test_functions_are_under_50_lines():
    long = {}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno + 1 >= 50:
                long[f"{path.name}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert long == {}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_no_test_imports_a_test():
    for path in [*ROOT.glob("tests/*.py"), *ROOT.glob("tests/*/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            assert not [name for name in names if name.startswith("test_")], path
