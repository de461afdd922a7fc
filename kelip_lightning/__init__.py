"""Korean–English language–image pre-training: MAE warm-up and contrastive training on Lightning.

Reference: Ko & Gu 2022, Large-scale Bilingual Language-Image Contrastive Learning (arXiv:2203.14463).
"""
