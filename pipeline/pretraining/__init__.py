"""How the embedded base is made; no stage imports this, they use the weights."""
