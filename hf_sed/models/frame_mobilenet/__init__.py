"""Frame-MobileNet, the MobileNet-v3 with a frame for every 40 ms of PretrainedSED."""
