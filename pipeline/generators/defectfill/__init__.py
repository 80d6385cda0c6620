"""DefectFill (CVPR 2025, arXiv 2503.13985): LoRA on an inpainting diffusion model, three losses, one token a defect type."""
