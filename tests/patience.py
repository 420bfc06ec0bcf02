"""How long tests wait for what must come: nothing but a fault reaches it, however slow or busy the machine is."""

PATIENCE_S = 300.0
