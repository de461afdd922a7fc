"""The paper's questions about a trained model: embeddings in, findings out."""
