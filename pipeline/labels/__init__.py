"""From masks to instances, boxes, COCO and YOLO files; numpy only, the same code for real and synthetic images."""
