"""What other systems lack or do in another way, as far as it shows without them: by reading the sources.

Nothing here has run on Windows or macOS.
"""

import ast
import fcntl
import os
import re
from pathlib import Path

import pytest

from dotkd import runs
from dotkd.compare.arms import check_arms, slug
from dotkd.recipe import load_recipe

SOURCE = Path(runs.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# Modules and names that Windows or macOS lacks; tests of them, or handlers of their absence, are guards.
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios"}
NAMES = {
    *("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2"),
    *("fork", "getpgid", "getppid", "getuid", "killpg", "mkfifo", "nice", "posix_fadvise", "pread", "pwrite"),
    *("register_at_fork", "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs", "sysconf", "uname"),
    *("O_DIRECT", "O_DIRECTORY", "fdatasync", "sync"),
}


def unguarded(text: str) -> list[str]:
    """Names that not every system has, used outside of a test of them or a handler of their absence."""
    tree = ast.parse(text)
    safe: set[int] = set()
    for node in ast.walk(tree):
        handlers = "".join(ast.unparse(one.type) for one in getattr(node, "handlers", []) if one.type)
        tried = isinstance(node, ast.Try) and re.search("ImportError|ModuleNotFoundError|Attribute", handlers)
        tested = isinstance(node, ast.If | ast.IfExp) and re.search(
            r"hasattr\(|platform", ast.unparse(node.test)
        )
        if tried or tested:
            safe |= {id(inner) for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in safe:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in {*MODULES, "os", "signal"}:
            found += [alias.name for alias in node.names if node.module in MODULES or alias.name in NAMES]
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            found += [node.attr] if ast.unparse(node.value) in {"os", "signal"} else []
    return found


def careless(text: str) -> list[str]:
    """Calls that write text with the line ends of the system, or text in its encoding."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        # The mode stands first behind a path, and second in open(path, mode).
        place = 0 if isinstance(node.func, ast.Attribute) else 1
        mode = ast.unparse(node.args[place]) if len(node.args) > place else given.get("mode", "'r'")
        writes = name == "write_text" and ast.unparse(node.func) != "write_text"
        opens = name == "open" and re.fullmatch(r"'[rwaxt+]*'", mode) is not None
        if ast.unparse(node.func).startswith(("runs.", "Image.")):
            continue
        if (writes or opens) and "encoding" not in given:
            found.append(ast.unparse(node))
        if (writes or (opens and mode != "'r'")) and given.get("newline") != r"'\n'":
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_the_sources_use_nothing_that_a_system_lacks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert unguarded(text) == []
    assert careless(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import fcntl", ["fcntl"]),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("import os\nn = os.sched_getaffinity(0)", ["sched_getaffinity"]),
        ("n = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else 1", []),
        ("from signal import SIGHUP", ["SIGHUP"]),
        ("signal.signal(signal.SIGHUP, stop)", ["SIGHUP"]),
    ],
)
def test_what_the_check_of_names_finds(text: str, found: list[str]) -> None:
    assert unguarded(text) == found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("path.write_text(text)", 2),
        ("path.write_text(text, encoding='utf-8')", 1),
        ("path.write_text(text, encoding='utf-8', newline='\\n')", 0),
        ("open(path, 'w', encoding='utf-8')", 1),
        ("path.open('a', encoding='utf-8')", 1),
        ("path.open(encoding='utf-8')", 0),
        ("path.open()", 1),
        ("path.open('r+b')", 0),
    ],
)
def test_what_the_check_of_files_finds(text: str, count: int) -> None:
    assert len(careless(text)) == count


def test_files_are_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch) -> None:
    flushed = []

    def of_windows(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(handle)

    monkeypatch.setattr(os, "fsync", of_windows)
    runs.write_text(tmp_path / "text", "one\ntwo\n")
    assert (tmp_path / "text").read_bytes() == b"one\ntwo\n"
    assert len(flushed) == 1


@pytest.mark.parametrize(
    "name", ["timm:resnet18@pretrained", "a/b\\c", "lr <0.1>", 'a "quoted" | name?*', "x."]
)
def test_folders_have_names_that_every_system_takes(name: str) -> None:
    folder = slug(name)
    assert folder
    assert not set(folder) & set('<>:"/\\|?*@')
    assert not folder.endswith((".", " "))
    recipe = load_recipe("quick/digits-plain").model_copy(update={"name": name})
    assert list(check_arms([recipe])) == [folder]
