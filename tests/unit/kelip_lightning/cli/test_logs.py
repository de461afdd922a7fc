"""Where messages go."""

import contextlib
import io
import logging

from kelip_lightning.cli.logs import StderrHandler


def test_stderr_handler__writes_to_the_present_stderr() -> None:
    logger = logging.Logger("alone")
    with contextlib.redirect_stderr(io.StringIO()) as first:
        logger.addHandler(StderrHandler())
        logger.warning("one")
    first.close()
    with contextlib.redirect_stderr(io.StringIO()) as second:
        logger.warning("two %d", 2)
        assert second.getvalue() == "two 2\n"
