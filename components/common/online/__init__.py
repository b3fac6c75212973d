"""The online store: keys, values and policies as both reads and writes know them."""
