"""`edgemt data`: what a folder of images and masks holds, what training would stumble over, and a suggested recipe.

Files are listed (`listing`), read once (`scan`), compared with each other (`duplicates`, `checks`) and with a trained
model (`against`); `build` puts the record together, `suggest` the recipe. No torch but for the float network of a run.
"""
