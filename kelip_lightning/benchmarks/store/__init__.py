"""Reading shards from an object store: ours beside WebDataset's reader, from an S3 server on this machine."""
