"""How people write numbers, moments and quantities, and what each spelling means."""
