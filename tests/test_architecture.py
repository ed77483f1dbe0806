"""The rules of the layout, checked on the source: who imports whom, what a script is, what may never return."""

import ast
import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scripts import GUARD, ROOT

STAGES = ("calibration", "dataset", "dnn", "evaluations", "figs", "nsga2", "offload", "trained_models")
PACKAGES = (*STAGES, "models", "utils")
MAY_IMPORT = {
    "utils": {"utils"},
    "models": {"models", "utils"},
    **{stage: {stage, "models", "utils"} for stage in STAGES},
    "offload": {"offload", "models", "utils", "dataset"},  # where the stages meet: the client observes traffic
}
ROOMS_OF_OFFLOAD = ("operations", "networks", "link", "edge", "alerts")
"""Each may import those in front of it."""
SYS_PATH_LINE = "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root"
OTHERS_NAMES = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}
MOST_LINES = 350
MOST_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Source:
    """A Python file: its path from the root, and what stands in it."""

    path: str
    text: str

    @property
    def package(self) -> str:
        return self.path.partition("/")[0]

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_script(self) -> bool:
        return GUARD in self.text


SOURCES = [
    Source(str(path.relative_to(ROOT)), path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
]
SCRIPTS = [source for source in SOURCES if source.is_script]
MODULES = [source for source in SOURCES if not source.is_script]
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.path)
every_script = pytest.mark.parametrize("source", SCRIPTS, ids=lambda source: source.path)
every_module = pytest.mark.parametrize("source", MODULES, ids=lambda source: source.path)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every module imported anywhere in a tree, functions and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield node.module or ""


def top(module: str) -> str:
    return module.partition(".")[0]


def layer_breaches(source: Source) -> set[str]:
    """Return what a library module imports of ours and may not."""
    ours = {top(module) for module in imported(source.tree)} & {*PACKAGES, "tests"}
    return ours - MAY_IMPORT[source.package]


def room_breaches(source: Source) -> set[str]:
    """Return the rooms of ``offload`` that a module in one of them imports and may not."""
    room = source.path.split("/")[1]
    allowed = ROOMS_OF_OFFLOAD[: ROOMS_OF_OFFLOAD.index(room) + 1]
    ours = [module for module in imported(source.tree) if top(module) == "offload"]
    return {module for module in ours if module.split(".")[1] not in {*allowed, "defaults"}}


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import one another in a circle, or nothing."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> list[str]:
        if module in path:
            return list(path[path.index(module) :])
        if module in done:
            return []
        found = next((circle for other in sorted(graph[module]) if (circle := visit(other, (*path, module)))), [])
        done.add(module)
        return found

    return next((circle for module in sorted(graph) if (circle := visit(module, ()))), [])


def import_graph(sources: Iterable[Source]) -> dict[str, set[str]]:
    """Return, for each of our modules, which of ours it imports, in functions too, but not for type checking alone."""
    by_name = {module_name(source): source for source in sources}
    graph = {}
    for name, source in by_name.items():
        running = ast.Module(list(at_import(source.tree.body)), [])
        graph[name] = ({*imported(running), *imported_names(running)} & {*by_name}) - {name}
    return graph


def module_name(source: Source) -> str:
    return source.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of whatever is imported from a module: it may be a module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported: not those for type checkers only, nor the guarded."""
    for node in body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}):
            yield node


def forbidden(source: Source) -> list[str]:
    """Return the constructs in a file that the published code had and that none of ours may have."""
    found = []
    for node in ast.walk(source.tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                found.append("star import")
            case ast.ExceptHandler(type=None):
                found.append("bare except")
            case ast.ExceptHandler(body=[ast.Pass()], type=ast.Name(id="Exception" | "BaseException")):
                found.append("every exception passed over")
            case ast.Attribute(value=ast.Name(id="pickle"), attr="load" | "loads"):
                found.append("unpickling of anything")
            case ast.Attribute(attr="read_pickle"):
                found.append("unpickling of anything")
            case ast.keyword(arg="weights_only" | "allow_pickle", value=ast.Constant(value=value)):
                if value is not (node.arg == "weights_only"):
                    found.append("files that may hold any object")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                if "weights_only" not in {keyword.arg for keyword in keywords}:
                    found.append("torch.load without weights_only")
            case ast.Call(func=ast.Name(id="eval" | "exec" | "__import__")):
                found.append("code from text")
    return found


def test_every_folder_with_python_in_it_has_its_place_in_the_layout() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders <= {*PACKAGES, "tests"}
    assert not list(ROOT.glob("*.py"))


@every_module
def test_a_library_module_imports_downward_only(source: Source) -> None:
    assert layer_breaches(source) == set()


@pytest.mark.parametrize(
    "source",
    [source for source in MODULES if source.path.split("/")[1] in ROOMS_OF_OFFLOAD],
    ids=lambda source: source.path,
)
def test_the_rooms_of_offload_import_downward_only(source: Source) -> None:
    assert room_breaches(source) == set()


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert find_circle(import_graph(MODULES)) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@every_source
def test_modules_are_imported_by_name_in_plain_sight(source: Source) -> None:
    if source.path != "models/__init__.py":  # the registry, which finds a network's module by its family
        assert "importlib" not in {top(module) for module in imported(source.tree)}


def test_pika_lives_in_one_package() -> None:
    users = {str(Path(s.path).parent) for s in SOURCES if "pika" in {top(module) for module in imported(s.tree)}}
    assert users == {"offload/link/rabbitmq"}


@every_module
def test_a_library_module_leaves_the_search_path_alone(source: Source) -> None:
    assert "sys.path" not in source.text


@every_script
def test_a_script_finds_the_project_by_the_one_line_before_it_imports_anything_of_it(source: Source) -> None:
    lines = source.text.splitlines()
    assert lines.count(SYS_PATH_LINE) == source.text.count("sys.path") == 1
    after = source.text.partition(SYS_PATH_LINE)[0]
    assert not {top(module) for module in imported(ast.parse(after))} & {*PACKAGES, "tests"}


@every_script
def test_a_script_imports_nothing_heavy_before_it_runs(source: Source) -> None:
    for node in at_import(source.tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert {top(module) for module in imported(node)} <= {*sys.stdlib_module_names, *PACKAGES}


@every_script
def test_nothing_runs_when_a_script_is_imported(source: Source) -> None:
    defines = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    docstring, *rest = at_import(source.tree.body)
    assert isinstance(docstring, ast.Expr) and ast.get_docstring(source.tree)
    others = [ast.unparse(node) for node in rest if not isinstance(node, defines)]
    assert others == [SYS_PATH_LINE.partition("  #")[0]]


@every_script
def test_a_script_has_a_parser_a_main_that_returns_its_exit_code_and_a_guard(source: Source) -> None:
    functions = {node.name: node for node in source.tree.body if isinstance(node, ast.FunctionDef)}
    headings = {
        name: f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
        for name, node in functions.items()
        if node.returns
    }
    assert headings["make_parser"] == "() -> argparse.ArgumentParser"
    assert headings["main"] == "(argv: list[str] | None=None) -> int"
    (guarded,) = [
        node for node in source.tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    ]
    assert guarded is source.tree.body[-1]
    assert [ast.unparse(node) for node in guarded.body] in (["raise SystemExit(main())"], ["sys.exit(main())"])


@every_script
def test_a_script_says_in_its_docstring_how_to_run_it(source: Source) -> None:
    commands = re.findall(r"^    python (\S+)", ast.get_docstring(source.tree) or "", re.MULTILINE)
    assert set(commands) == {source.path}


@every_source
def test_no_module_takes_the_name_of_another_that_is_not_ours(source: Source) -> None:
    path = Path(source.path)
    name = path.parent.name if path.name == "__init__.py" else path.stem
    assert name not in OTHERS_NAMES


@every_source
def test_nothing_that_the_published_code_taught_to_avoid_has_returned(source: Source) -> None:
    assert forbidden(source) == []


@every_source
def test_an_unpickler_decides_what_it_looks_up(source: Source) -> None:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
            assert "find_class" in {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
    calls = [node.func for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    assert "pickle.Unpickler" not in map(ast.unparse, calls)


@every_source
def test_a_file_is_short_enough_to_be_read_at_a_sitting(source: Source) -> None:
    assert len(source.text.splitlines()) <= MOST_LINES


@every_source
def test_a_function_fits_on_a_screen(source: Source) -> None:
    functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES} == {}


@pytest.mark.parametrize(
    ("path", "line", "breach"),
    [
        ("utils/a.py", "import models", {"models"}),
        ("models/a.py", "from nsga2.front_chart import build_front_table", {"nsga2"}),
        ("dnn/a.py", "def f():\n    import calibration.temperature", {"calibration"}),
        ("dnn/a.py", "if TYPE_CHECKING:\n    from offload import edge", {"offload"}),
        ("offload/a.py", "from tests.networks import new_network", {"tests"}),
        ("offload/a.py", "from models.early_exit import TwoExits\nimport utils.cli\nimport offload.edge.edge", set()),
    ],
)
def test_a_planted_breach_of_the_layers_is_found(path: str, line: str, breach: set[str]) -> None:
    assert layer_breaches(Source(path, line)) == breach


@pytest.mark.parametrize(
    "line",
    [
        "from os import *",
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept Exception:\n    pass",
        "pickle.loads(body)",
        "x = pickle.load",
        "pd.read_pickle(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_a_planted_construct_of_the_published_code_is_found(line: str) -> None:
    assert len(forbidden(Source("dnn/a.py", line))) == 1


@pytest.mark.parametrize(
    "line",
    ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "pickle.dumps(1)", "model.eval()"],
)
def test_an_innocent_construct_is_left_in_peace(line: str) -> None:
    assert forbidden(Source("dnn/a.py", line)) == []
