"""Where defects go: a bank of masks, places for them, crops around them, exact composites."""
