"""The stages, in the order of the flow: the only place that knows what a folder means."""
