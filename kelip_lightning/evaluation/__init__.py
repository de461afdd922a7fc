"""Zero-shot and retrieval evaluation: tensors in, floats out.

This package knows neither Lightning nor files. The callback of the training run and the
`evaluate` verb call the same functions, so their metrics agree.
"""
