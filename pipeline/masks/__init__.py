"""Where defects go: crops around masks, warped reference masks, exact composites."""
