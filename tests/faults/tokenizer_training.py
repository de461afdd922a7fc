"""What is done to the training of the tokenizer in a process, in a module that the process can import."""

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainTokenizer:
    """Training the tokenizer takes its time, or is not to be done at all."""

    seconds: float | None

    def __call__(self) -> None:
        """Take the place of the training."""
        from data_modules.text import tokenizer

        train = tokenizer.train_tokenizer

        def instead(*arguments: Any) -> Any:
            assert self.seconds is not None, "this process trains a tokenizer of its own"
            time.sleep(self.seconds)
            return train(*arguments)

        tokenizer.train_tokenizer = instead
