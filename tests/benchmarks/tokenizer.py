"""`python -m tests.benchmarks.tokenizer`: how long training a tokenizer takes on made-up captions in both languages.

Words are random, of Zipf's frequencies (exponent 1, 200,000 words a language), eight a caption; one thread.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np

from data_modules.text.tokenizer import train_tokenizer

NUM_WORDS, WORDS_PER_CAPTION, CHUNK = 200_000, 8, 10_000


def _words(generator: np.random.Generator, first: int, last: int, longest: int) -> list[str]:
    lengths = generator.integers(1, longest + 1, NUM_WORDS)
    return ["".join(map(chr, generator.integers(first, last, length))) for length in lengths]


def captions(number: int) -> Iterator[str]:
    """Korean and English in turn."""
    generator = np.random.default_rng(0)
    vocabularies = [_words(generator, ord("가"), ord("힣") + 1, 4), _words(generator, ord("a"), ord("z") + 1, 9)]
    for start in range(0, number, CHUNK):
        ranks = np.exp(generator.random((CHUNK, WORDS_PER_CAPTION)) * np.log(NUM_WORDS)).astype(int) - 1
        for place, row in enumerate(ranks.tolist()[: number - start]):
            yield " ".join(vocabularies[place % 2][rank] for rank in row)


def main() -> None:
    """Train and print the time, that of making the captions up taken off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=2_000_000)
    parser.add_argument("--vocab-size", type=int, default=98_818)
    arguments = parser.parse_args()
    start = time.monotonic()
    for _ in captions(arguments.captions):
        pass
    made = time.monotonic()
    tokenizer = train_tokenizer(captions(arguments.captions), arguments.vocab_size, 77)
    seconds = time.monotonic() - made - (made - start)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{arguments.captions:,} captions, {tokenizer.vocab_size:,} tokens: {seconds:.0f} s, at most {gigabytes:.1f} GB"
    )


if __name__ == "__main__":
    main()
