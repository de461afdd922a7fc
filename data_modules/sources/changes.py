"""What differs between two fingerprints, in words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from data_modules.sources.fingerprint import FileFingerprint, SourceFingerprint

MAX_NAMED = 3
"""Files of a kind of change that are named; the others are counted."""


def all_source_changes(
    before: Mapping[str, SourceFingerprint], after: Mapping[str, SourceFingerprint]
) -> Iterator[str]:
    """A sentence for each source that differs; none for equal ones."""
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"source '{name}' is gone"
        elif name not in before:
            yield f"source '{name}' is new"
        elif changes := source_changes(before[name], after[name]):
            yield f"source '{name}': {', '.join(changes)}"


def source_changes(before: SourceFingerprint, after: SourceFingerprint) -> list[str]:
    """The changes of a source, a few words each; empty for equal fingerprints."""
    changes = file_changes(before.files, after.files)
    if before.num_samples != after.num_samples:
        changes.append(f"{after.num_samples:,} pairs, not {before.num_samples:,}")
    if before.format != after.format:
        changes.append(f"read as {after.format}, not as {before.format}")
    # A setting that only one of them has is new or gone in the code: nothing is known of it.
    shared = [key for key in before.selection if key in after.selection]
    changes += [f"another `{key}`" for key in shared if before.selection[key] != after.selection[key]]
    if before.version != after.version:
        changes.append(f"fingerprint {after.version or 'none'} of the dataset, not {before.version or 'none'}")
    return changes


def file_changes(before: Sequence[FileFingerprint], after: Sequence[FileFingerprint]) -> list[str]:
    """The changes of a list of files, a few words each; empty for equal lists."""
    if list(before) == list(after):
        return []
    old, new = Counter(one.name for one in before), Counter(one.name for one in after)
    added, removed = list((new - old).elements()), list((old - new).elements())
    changes = [f"{_named(names)} {verb}" for names, verb in ((added, "added"), (removed, "removed")) if names]
    by_name = {one.name: one for one in before}
    changed = [(by_name[one.name], one) for one in after if one.name in by_name and by_name[one.name] != one]
    changes += [_file_change(*pair) for pair in changed[:MAX_NAMED]]
    if len(changed) > MAX_NAMED:
        changes.append(f"{len(changed) - MAX_NAMED:,} more files changed")
    return changes or ["the same files in another order"]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _file_change(before: FileFingerprint, after: FileFingerprint) -> str:
    parts = []
    if before.size != after.size:
        parts.append(f"{_bytes(after.size)}, not {_bytes(before.size)}")
    if before.num_rows != after.num_rows:
        parts.append(f"{after.num_rows} rows, not {before.num_rows}")
    return f"{after.name} changed ({'; '.join(parts) or 'other content of the same size'})"


def _bytes(size: int) -> str:
    return "unreadable" if size < 0 else f"{size:,} bytes"
