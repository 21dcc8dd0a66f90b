"""Reading and writing files: images, masks, volumes, atomic writes. Loads no torch."""
