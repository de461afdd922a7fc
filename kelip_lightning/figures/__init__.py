"""Figures of findings as uint8 arrays (H, W, 3), in a font that has Hangul; knows no model."""
