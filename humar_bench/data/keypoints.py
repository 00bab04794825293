"""COCO's 17 keypoints: their names and their mirror images; the bones between them are `humar_bench.args.LIMBS`. No torch."""

from __future__ import annotations

NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)
INDEX = {name: index for index, name in enumerate(NAMES)}
MIRROR = (0, *(index for left in range(1, 17, 2) for index in (left + 1, left)))  # what each becomes when left and right are swapped
