"""Encoders, front ends and the detector around them; `auto.py` registers them with transformers."""
