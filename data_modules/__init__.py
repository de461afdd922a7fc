"""Everything between disk and batch: sources, order, transforms, tokenizer and evaluation sets.

Imports nothing of `kelip_lightning`, so it serves any trainer.
"""
