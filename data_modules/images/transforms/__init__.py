"""What happens to a picture between decoding and the batch: one file per recipe."""
