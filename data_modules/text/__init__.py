"""Captions and the tokenizer: cleaning, normalisation, choice of a caption, byte-level BPE."""
