"""Formats of annotations: COCO, YOLO, Pascal VOC, LabelMe, KITTI, masks."""
