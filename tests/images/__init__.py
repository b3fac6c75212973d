"""The images: what is in them, and the whole loop in them."""
