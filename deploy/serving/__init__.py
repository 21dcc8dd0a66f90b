"""Model repositories for Triton and OpenVINO Model Server, and the metadata of a MONAI bundle."""
