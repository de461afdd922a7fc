"""Weights and settings in other libraries' layouts: loading, export, one module per format."""
