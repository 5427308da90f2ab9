"""Frame-level PaSST, the audio spectrogram transformer with a frame for every 40 ms of PretrainedSED."""
