"""The house's rules that no linter knows."""

import ast
import importlib
import pkgutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "schemas",
    "streams",
    "bridges",
    "pki",
    "client",
    "device",
    "protocols",
    "configuration",
)
FUNCTION_LINES_MAX = 60
"""Docstring and signature included; about forty lines of work."""
FILE_LINES_MAX = 400
IMPURE = {"time", "random", "os", "socket", "secrets", "threading", "asyncio", "uuid", "datetime"}
SLEEPS_AND_PATCHES = ("time.sleep(", "asyncio.sleep(", "monkeypatch", "mock.patch")
FORBIDDEN = ("/" + "work/", "/" + "root/.", "unittest" + ".mock")

SOURCES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return every function of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [one for one in ast.walk(tree) if isinstance(one, kinds)]


def test_functions_and_files_stay_short() -> None:
    """No function and no file has grown past what one reads at a glance."""
    long = []
    for path in SOURCES:
        text = path.read_text()
        if len(text.splitlines()) > FILE_LINES_MAX:
            long.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for one in functions(ast.parse(text)):
            lines = (one.end_lineno or 0) - one.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                long.append(f"{path.relative_to(ROOT)}:{one.name}: {lines} lines")
    assert long == []


def test_the_core_is_pure() -> None:
    """Nothing in streams/core imports a clock, a random source, the network or the system."""
    for path in (ROOT / "streams" / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {one.split(".")[0] for one in names} & IMPURE, path


def test_every_test_states_its_fact() -> None:
    """Each test has a docstring; none patches, and none sleeps but the helper that waits."""
    for path in TESTS:
        text = path.read_text()
        for one in functions(ast.parse(text)):
            if one.name.startswith("test_"):
                assert ast.get_docstring(one), f"{path.name}:{one.name}"
        if path.name not in ("wait.py", "test_tidy.py"):
            found = [one for one in SLEEPS_AND_PATCHES if one in text]
            assert not found, f"{path.name}: {found}"


def test_no_file_names_a_machine() -> None:
    """Tracked text speaks of the project alone: no paths of a machine, no patched parts."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        text = (ROOT / name).read_text(errors="ignore")
        for word in FORBIDDEN:
            assert word not in text, f"{name}: {word}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports_offline(package: str) -> None:
    """Nothing happens at import."""
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
