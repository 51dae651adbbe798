"""Diffusion networks as image priors: their files and what they compute.

Needs the extra ``diffusion``; nothing of it is imported before a network is asked for.
"""
