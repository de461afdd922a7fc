"""The embedded emoji corpus: one small bilingual image-text set in several drawing styles."""
