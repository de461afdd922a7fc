"""The two LightningModules: the MAE warm-up and contrastive training."""
