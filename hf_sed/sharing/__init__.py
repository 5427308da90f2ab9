"""Model cards, the Hub, the demo Space."""
