"""How people write moments and quantities, and what each spelling means."""
