"""The reason of another library's exception, short enough for one sentence."""

import re

_MAX_CHARACTERS = 200
_NEXT_SENTENCE = re.compile(r"\n|[.!] (?=[A-Z])")


def short_reason(error: BaseException) -> str:
    """The first sentence of an exception's message without its full stop, or its type if there is no message."""
    reason = _NEXT_SENTENCE.split(str(error).strip(), maxsplit=1)[0].strip().rstrip(".:") or type(error).__name__
    return reason if len(reason) <= _MAX_CHARACTERS else f"{reason[:_MAX_CHARACTERS]}..."
