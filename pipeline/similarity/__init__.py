"""How different two pictures look: arrays in, numbers out."""
