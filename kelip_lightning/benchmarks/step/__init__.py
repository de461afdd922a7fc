"""The training step beside open_clip's and a plain PyTorch one, from the same weights on the same batches."""
