"""`python -m tests.benchmarks.tokenizer`: time to train a tokenizer on synthetic captions in both languages.

Words are random with Zipf's frequencies (exponent 1, 200,000 words per language), eight per caption.
"""

import resource
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from data_modules.text.tokenizer import train_tokenizer
from tests.benchmarks import seconds_of, single_threaded

NUM_WORDS, WORDS_PER_CAPTION, CHUNK = 200_000, 8, 10_000


def _words(generator: np.random.Generator, first: int, last: int, longest: int) -> list[str]:
    lengths = generator.integers(1, longest + 1, NUM_WORDS)
    return ["".join(map(chr, generator.integers(first, last, length))) for length in lengths]


def captions(number: int) -> Iterator[str]:
    """Korean and English captions in turn."""
    generator = np.random.default_rng(0)
    vocabularies = [_words(generator, ord("가"), ord("힣") + 1, 4), _words(generator, ord("a"), ord("z") + 1, 9)]
    for start in range(0, number, CHUNK):
        ranks = np.exp(generator.random((CHUNK, WORDS_PER_CAPTION)) * np.log(NUM_WORDS)).astype(int) - 1
        for place, row in enumerate(ranks.tolist()[: number - start]):
            yield " ".join(vocabularies[place % 2][rank] for rank in row)


def main() -> None:
    """Train and print the time without that of making the captions."""
    parser = single_threaded(__doc__)
    parser.add_argument("--captions", type=int, default=2_000_000)
    parser.add_argument("--vocab-size", type=int, default=98_818)
    arguments = parser.parse_args()
    number, size = arguments.captions, arguments.vocab_size
    making = seconds_of(lambda: deque(captions(number), maxlen=0), time.monotonic)
    seconds = seconds_of(lambda: train_tokenizer(captions(number), size, 77), time.monotonic) - making
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{number:,} captions, at most {size:,} tokens: {seconds:.0f} s, at most {gigabytes:.1f} GB")


if __name__ == "__main__":
    main()
