"""The paper's questions about a trained model: embeddings in, records out.

This package knows neither Lightning nor files; `kelip_lightning.analyses.analyze` embeds, calls it and writes.
"""
