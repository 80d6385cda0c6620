"""Copy-paste: the baseline generator."""
