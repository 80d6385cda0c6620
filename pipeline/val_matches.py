"""What `train` says of the val photos and `python -m pipeline targets` reads: the file in the folder of a trained model.

It holds `split`, `fold`, the `iou` of a hit, the section `label`, digests of what was `read`, and `instances`: one row a val
defect (image, defect, area_px, and the score it was found with or null).
"""

VAL_MATCHES = "val_matches.json"
