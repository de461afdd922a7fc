"""From YAML files to typed, checked experiments. The only place that knows OmegaConf."""
