"""From a saved detector to events: windows, post-processing, the pipeline, evaluation, tuning."""
