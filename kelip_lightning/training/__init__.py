"""Training runs: `stages` runs both stages, the other modules open their inputs and resume them."""
