"""Training runs from beginning to end: `stages` tells the story of a stage from top to bottom."""
