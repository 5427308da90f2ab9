"""Clips: one schema, the composer of scenes, the loaders, and the batches that training sees."""
