"""The sound event detector: config, model, feature extractor, supervised loss."""
