"""ATST-Frame, the self-supervised frame-level audio transformer of ATST-SED."""
