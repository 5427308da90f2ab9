"""The CNN encoder of the DCASE/ATST-SED CRNN."""
