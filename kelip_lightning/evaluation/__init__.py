"""Zero-shot and retrieval evaluation: tensors in, floats out; imports neither Lightning nor reads files."""
