"""Zero-shot and retrieval evaluation: tensors in, floats out; independent of Lightning and of files."""
