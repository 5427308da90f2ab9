"""From batches to a trained detector: the method, the trainer, recipes and comparisons."""
