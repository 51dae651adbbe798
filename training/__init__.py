"""Training of the small diffusion prior that napari-dkp ships: see training/README.md."""
