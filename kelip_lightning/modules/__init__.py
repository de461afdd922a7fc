"""The two LightningModules: MAE pre-training and contrastive training."""
