"""Plots and panels of images, with the shipped fonts."""
