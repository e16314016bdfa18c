"""The rules of the code base, held by the tools that check them: imports, style, types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.declared_failpoints import DECLARED

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("backend", "cache", "gateway", "mountfs", "tools")
WITH_ROOMS = ("backend", "cache", "gateway")
OUTSIDE = {
    "backend": {"buffer", "errors", "failpoints", "file_limit", "findings", "health", "upstream", "wire"},
    "cache": {
        "attributes",
        "client",
        "copied_state",
        "defaults",
        "drive",
        "enrolment",
        "errors",
        "file_clock",
        "health",
        "opening",
        "past_names",
        "recovery",
        "slow_waits",
    },
    "gateway": {"control_address"},
}
LINT_IMPORTS = str(Path(sys.executable).with_name("lint-imports"))


def run(command: list[str], folder: Path) -> tuple[int, str]:
    result = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([LINT_IMPORTS, "--no-logo"], id="imports"),
        pytest.param([sys.executable, "-m", "ruff", "check", "."], id="ruff"),
        pytest.param([sys.executable, "-m", "ruff", "format", "--check", "."], id="ruff format"),
        pytest.param([sys.executable, "-m", "mypy"], id="mypy"),
    ],
)
def test_the_checker_has_nothing_to_say(command: list[str]) -> None:
    code, output = run(command, ROOT)
    assert code == 0, output


def test_an_import_against_the_layers_would_be_seen(tmp_path: Path) -> None:
    """The contracts can fail: a small tree with forbidden imports breaks them."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "backend" / "errors.py").write_text("import cache\n")
    (tmp_path / "tools" / "status.py").write_text(
        "import apsw, cryptography, httpx, jeepney, obstore, psycopg, pyeclib, pyfuse3\n"
    )
    contracts = (ROOT / "setup.cfg").read_text()
    # Neither the rooms nor the allowed imports occur in the small tree, which is no fault of it.
    contracts = re.sub(
        r"\[importlinter:contract:(\w+-rooms|keyless|loops)\].*?(?=\n\[|\Z)", "", contracts, flags=re.S
    )
    ignored = "ignore_imports ="
    lenient = contracts.replace(ignored, f"unmatched_ignore_imports_alerting = none\n{ignored}")
    (tmp_path / "setup.cfg").write_text(lenient)
    code, output = run([LINT_IMPORTS, "--no-logo", "--no-cache"], tmp_path)
    assert code == 1
    assert "1 kept, 9 broken" in output


def entries_past_a_front(root: Path) -> list[str]:
    """Imports from inside a room of a package with rooms by a module that is outside it."""
    found = []
    for path in sorted(each for package in PACKAGES for each in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for package, room, *inside in (name.split(".") for name in names if name.count(".") > 1):
                at_home = path.is_relative_to(root / package / room)
                if package in WITH_ROOMS and inside and not at_home:
                    found.append(f"{path.relative_to(root)}: {'.'.join([package, room, *inside])}")
    return found


def test_a_room_is_entered_by_its_front() -> None:
    assert entries_past_a_front(ROOT) == []


def test_an_entry_past_a_front_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "backend" / "nodes").mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    (tmp_path / "backend" / "nodes" / "retry.py").write_text("from backend.nodes.node import Node\n")
    (tmp_path / "tools" / "compose.py").write_text(
        "import backend.nodes.retry\nfrom backend.nodes import Node\n"
    )
    assert entries_past_a_front(tmp_path) == ["tools/compose.py: backend.nodes.retry"]


FOREIGN_PRIVATES = {"os._exit", "_run._r"}
"""Of Python and of trio, which have no other name for it."""


def uses_of_privates(folder: Path) -> list[str]:
    """Attributes whose name begins with one underscore, of anything but `self`, `cls` and `super()`."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
                of = ast.unparse(node.value)
                if of not in ("self", "cls", "super()") and f"{of}.{node.attr}" not in FOREIGN_PRIVATES:
                    found.append(f"{path.relative_to(folder)}:{node.lineno}: {of}.{node.attr}")
    return found


def test_tests_use_public_names() -> None:
    assert uses_of_privates(ROOT / "tests") == []


def test_a_use_of_a_private_name_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("self._own, cls._own\nos._exit(1)\nf(a.b.__name__, a.b._c)\n")
    assert uses_of_privates(tmp_path) == ["test_one.py:3: a.b._c"]


PAST_THE_ENVIRONMENT: Final = re.compile(
    r"time\.(time|time_ns|clock_gettime)|time\.(gmtime|localtime|ctime|asctime)\(\)"
    r"|(datetime\.)?(datetime|date)\.(now|utcnow|today)"
    r"|(random|uuid|tempfile)\.\w+|secrets\.(token_\w+|rand\w+|choice|SystemRandom)"
    r"|shutil\.(copyfile|copytree|move|rmtree)"
    r"|os\.(urandom|rename|replace|unlink|remove|mkdir|makedirs|rmdir|removedirs|link|symlink|fsync|fdatasync"
    r"|write|writev|pwrite|pwritev|truncate|ftruncate|posix_fallocate|utime)"
)
"""Functions, and calls whose lack of an argument is what matters."""
NOT_BY_THE_ENVIRONMENT: Final = {
    **dict.fromkeys(("environment", "durable"), "it is what the environment is made of"),
    **dict.fromkeys(
        ("account_keys", "crypto", "epoch_keys", "key_slots", "keys", "recovery_key"),
        "keys and nonces must never repeat",
    ),
    **dict.fromkeys(("directory", "directory_place", "nesting"), "debris and foreign things go"),
    **dict.fromkeys(("check_places", "stale"), "tools only"),
    "file_clock": "the kernel's own clock is what is asked for",
    "block_folder": "folders in which nothing is believed",
}
"""Modules that do such things by themselves, and why."""


def calls_past_the_environment(root: Path) -> dict[str, set[str]]:
    """By module, where a device would share with others of its process."""
    found: dict[str, set[str]] = {}
    for path in sorted(each for package in ("backend", "cache") for each in (root / package).rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute | ast.Call):
                names.add(ast.unparse(node))
            elif isinstance(node, ast.ImportFrom):
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
        if past := set(filter(PAST_THE_ENVIRONMENT.fullmatch, names)):
            found[path.stem] = past
    return found


def test_devices_share_no_disk_no_clock_and_no_chance() -> None:
    assert calls_past_the_environment(ROOT).keys() == NOT_BY_THE_ENVIRONMENT.keys()


def test_a_call_past_the_environment_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "one.py").write_text(
        "now = time.time_ns()\nself._disk.rename(a, b)\nos.stat(a)\ntime.gmtime(1)\nsecrets.values\n"
    )
    (tmp_path / "backend" / "two.py").write_text(
        "from uuid import uuid4\ntime.gmtime()\ndatetime.now(UTC)\nsecrets.token_hex(8)\nos.utime(a)\n"
    )
    assert calls_past_the_environment(tmp_path) == {
        "one": {"time.time_ns"},
        "two": {"uuid.uuid4", "time.gmtime()", "datetime.now", "secrets.token_hex", "os.utime"},
    }


def test_every_module_is_in_a_room() -> None:
    """Outside are the vocabulary of its package, the drive that every door uses, and how it opens."""
    for package, outside in OUTSIDE.items():
        assert {path.stem for path in (ROOT / package).glob("*.py")} == outside | {"__init__"}, package


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and not path.read_text().startswith('"""')
    ]
    assert silent == []


ONE_SITTING: Final = 400
"""Lines: what is longer holds two ideas."""


def test_every_module_is_read_in_one_sitting() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > ONE_SITTING} == {}


def test_what_a_function_says_of_itself_is_no_question() -> None:
    """It begins with a noun or a verb. That something is so, or not, is an answer: "whether" may begin."""
    questions = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {text}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for text in [ast.get_docstring(node) or ""]
        if re.match(r"(What|How|Which|Where|When|Who|Why)\b", text)
    ]
    assert questions == []


def paths_named_on(page: str) -> set[str]:
    text = (ROOT / page).read_text()
    return set(re.findall(r"`((?:backend|cache|gateway|mountfs|tools|tests|docs)/[\w./]*)`", text))


@pytest.mark.parametrize(
    ("page", "least"), [("docs/architecture.md", 50), ("docs/extending.md", 25), ("CONTRIBUTING.md", 3)]
)
def test_every_path_that_a_page_for_newcomers_names_exists(page: str, least: int) -> None:
    named = paths_named_on(page)
    assert len(named) > least
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_every_file_that_the_row_of_a_room_names_is_in_the_room() -> None:
    """The last column names files by their path in the room."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|.*\| (.*) \|$", page, re.MULTILINE)
    named = [
        (room.group(1), name)
        for first, last in rows
        if (room := re.match(r"`(\S+/)`", first)) is not None
        for name in re.findall(r"`([\w/]+\.py)`", last)
        if name.split("/")[0] not in (*PACKAGES, "tests")
    ]
    assert len(named) > 100
    assert [f"{room}{name}" for room, name in named if not (ROOT / room / name).is_file()] == []


def test_every_name_that_the_page_says_is_in_a_file_is_there() -> None:
    """As "`Class.method` (`path`)", where the class may hand the call on, and "`name` of `path`"."""
    page = " ".join((ROOT / "docs" / "architecture.md").read_text().split())
    sources = {path: path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    methods = re.findall(r"`(\w+)\.(\w+)` \(`(\S+\.py)`\)", page)
    functions = re.findall(r"`(\w+)` of `(\S+\.py)`", page)
    assert len(methods) > 8
    assert len(functions) > 5
    classes = {name for name, _, _ in methods}
    unknown = {
        name for name in classes if not any(re.search(rf"class {name}\b", text) for text in sources.values())
    }
    called = [(name, path) for _, name, path in methods] + functions
    missing = {
        (name, path) for name, path in called if not re.search(rf"(def|class) {name}\b", sources[ROOT / path])
    }
    assert (unknown, missing) == (set(), set())


def test_the_page_has_every_room_and_all_that_is_outside_of_rooms() -> None:
    rooms = {
        f"{path.parent.relative_to(ROOT)}/"
        for package in WITH_ROOMS
        for path in (ROOT / package).glob("*/__init__.py")
    }
    outside = {f"{package}/{name}.py" for package, names in OUTSIDE.items() for name in names}
    assert len(rooms) > 20
    assert sorted((rooms | outside) - paths_named_on("docs/architecture.md")) == []
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    said = [path for row in rows for path in re.findall(r"`(\S+)`", row)]
    assert sorted(said) == sorted(set(said)), "a room stands there twice"


def test_the_page_of_the_failpoints_names_each() -> None:
    """A new one has its row in docs/fault_matrix.md ("not run" until `make soak` writes it anew), or stands
    above the table with the tests that reach it (`ELSEWHERE` of tests/crash/test_failpoint_matrix.py)."""
    named = re.findall(r"`([\w.-]+)`", (ROOT / "docs" / "fault_matrix.md").read_text())
    assert sorted(DECLARED.keys() - set(named)) == []


@pytest.mark.parametrize("page", ["invariants.md", "s3_tests.md", "threat_model.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / page).read_text())
    assert len(named) > 15
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not re.search(rf"\bdef {test}\(", (ROOT / path).read_text())
    ]
    assert missing == []
