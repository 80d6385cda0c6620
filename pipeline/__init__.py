"""Few-shot defect synthesis, stage by stage; the stages meet on disk and DVC decides which run.

prepare         raw photos and masks -> train / val / test by physical part, K reference parts a type
learn_base      good train photos -> an inpainting diffusion pipeline
learn_concept   a few train references -> one fitted generator
synthesize      good photos + masks where defects occur -> N candidate crops a request
select          candidates -> the ones least like the clean photo inside the mask, put back into it
label           the region that really changed -> instances -> COCO and YOLO
report          evaluation files -> the comparison of arms (training and evaluation live in `detectors`)
"""
