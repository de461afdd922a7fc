"""The reason of another library's exception, short enough for one sentence."""

_MAX_CHARACTERS = 200


def short_reason(error: BaseException) -> str:
    """The first line of an exception's message without the final full stop, or its type if there is no message."""
    lines = str(error).strip().splitlines()
    reason = lines[0].strip().rstrip(".:") if lines else type(error).__name__
    return reason if len(reason) <= _MAX_CHARACTERS else f"{reason[:_MAX_CHARACTERS]}..."
