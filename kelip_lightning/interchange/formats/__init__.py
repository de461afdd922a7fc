"""Layouts of other libraries, for loading and export: one module per format, with tensor names and configuration."""
