"""BEATs, the self-supervised audio transformer with gated relative positions."""
