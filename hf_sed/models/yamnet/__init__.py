"""YAMNet, the MobileNet-v1 audio tagger, as a convolution over whole clips."""
