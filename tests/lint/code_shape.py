"""Limits on the size of functions and files, and on file names without meaning.

`python -m tests.lint.code_shape FOLDER ...` prints every violation and exits 1 if there is one.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_FUNCTION_LINES = 60
"""From `def` (decorators left out) to the last line, docstring included."""
MAX_FILE_LINES = 500
EMPTY_NAMES = frozenset({"utils", "util", "helpers", "helper", "misc", "common"})


def violations(path: Path) -> Iterator[str]:
    """The violations in one Python file, as `path:line: sentence`."""
    if path.stem in EMPTY_NAMES or path.parent.name in EMPTY_NAMES:
        yield f"{path}:1: the name does not describe the content: name it after that"
    source, limit = path.read_text(encoding="utf-8"), MAX_FUNCTION_LINES
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}:1: {num_lines} lines, the limit is {MAX_FILE_LINES}: split the file by subject"
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > limit:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, the limit is {limit}"


def main(folders: Sequence[str]) -> int:
    """Check every Python file below the folders; the number of violations decides the exit status."""
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    found = [sentence for path in files for sentence in violations(path)]
    for sentence in found:
        print(sentence)
    print(f"Code shape: {len(files)} files, {len(found)} violation{'s' * (len(found) != 1)}.")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
