"""The README's "Read the code" and the folders and layers of docs/architecture.md, compared with the source."""

import ast
import configparser
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

MAX_FILES = 10
_LISTED = re.compile(r"^\d+\.\s+\[?`([^`]+)`", re.MULTILINE)
_BRANCH = re.compile(r"^(?P<indent>[│ ]*)[├└]─+ *(?P<folder>\w+)/")


def section(markdown: str, heading: str) -> str:
    """The text below a heading of level 2, up to the next one; empty without the heading."""
    found = re.search(rf"^## {re.escape(heading)}\s*$(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def code_blocks(markdown: str) -> list[list[str]]:
    """The lines of each fenced code block."""
    return [block.splitlines() for block in re.findall(r"^```[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)]


def reading_list(readme: str) -> list[str]:
    """The paths that "Read the code" lists."""
    return _LISTED.findall(section(readme, "Read the code"))


def direct_imports(file: Path, root: Path) -> set[str]:
    """The repository's modules that a file imports anywhere, as paths relative to the root."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = {f"{module.replace('.', '/')}.py" for module in modules}
    return {path for path in paths if (root / path).is_file()}


def walk_problems(files: Sequence[str], root: Path, first: str, last: str) -> Iterator[str]:
    """What keeps the files from being a walk along imports from `first` to `last`.

    Of two neighbours, one imports the other, or a file of the list imports both.
    """
    missing = [file for file in files if not (root / file).is_file()]
    if missing or not files:
        yield f"files that do not exist: {missing}" if missing else "no file is listed"
        return
    if len(files) > MAX_FILES:
        yield f"{len(files)} files are listed, the limit is {MAX_FILES}"
    if (files[0], files[-1]) != (first, last):
        yield f"the list leads from {files[0]} to {files[-1]}, not from {first} to {last}"
    imports = {file: direct_imports(root / file, root) for file in files}
    for one, other in pairwise(files):
        direct = other in imports[one] or one in imports[other]
        if not direct and not any({one, other} <= imported for imported in imports.values()):
            yield f"{one} and {other}: neither imports the other, and no listed file imports both"


def drawn_folders(architecture: str, package: str) -> set[str]:
    """Folders below `PACKAGE/` in the tree of a code block, relative to the package."""
    found: set[str] = set()
    parents: dict[int, str] = {}
    inside = False
    for line in (line for block in code_blocks(architecture) for line in block):
        if line[:1].isalnum():
            inside, parents = line.split()[0] == f"{package}/", {}
        elif inside and (branch := _BRANCH.match(line)):
            depth = len(branch["indent"])
            parents = {level: name for level, name in parents.items() if level < depth} | {depth: branch["folder"]}
            found.add("/".join(parents.values()))
    return found


def folder_problems(architecture: str, root: Path, package: str) -> Iterator[str]:
    """Folders with Python files that are not drawn, and folders without that are."""
    drawn = drawn_folders(architecture, package)
    folders = {path.parent.relative_to(root / package).as_posix() for path in (root / package).rglob("*.py")} - {"."}
    if folders != drawn:
        yield f"{package}: not drawn: {sorted(folders - drawn)}; drawn, but no Python: {sorted(drawn - folders)}"


def contract_layers(setup_cfg: str, package: str) -> list[set[str]]:
    """The layers of a package in import-linter's contract, from top to bottom, without optional ones."""
    parser = configparser.ConfigParser()
    parser.read_string(setup_cfg)
    for name in parser.sections():
        if parser.get(name, "containers", fallback="").strip() == package:
            lines = parser[name]["layers"].split("\n")
            return [set(re.findall(r"\w+", line)) for line in lines if line.strip() and "(" not in line]
    return []


def layer_problems(architecture: str, setup_cfg: str, package: str) -> Iterator[str]:
    """How the first code block of "Dependencies", a layer a line, differs from the contract."""
    blocks, contract = code_blocks(section(architecture, "Dependencies")), contract_layers(setup_cfg, package)
    documented = [set(line.split()) for line in blocks[0]] if blocks else []
    if documented != contract or not contract:
        yield f"{package}: layers in the document: {documented}; in the contract: {contract}"
