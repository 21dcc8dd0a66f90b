"""Perturbations of images and feature maps: parameters are sampled first, from the step's generator, and then applied.

Sampling and applying are separate, so that image, target and weight can get the same transform. Shapes: N batch, K
channels, *space 2 or 3 axes. Images [N, K, *space] are normalised (standard deviation about 1).
"""
