"""Labelled images, one source per file: generated scenes, aerial tiles, csv folders, VOC, COCO;
mosaics; unlabelled photographs."""

from edge.data.base import REPORT, Dataset, Sample, match_labels
from edge.data.loader import batches
from edge.data.sampling import calibration_subset, coverage, validation_split
from edge.data.sources import TRAINABLE, open_dataset

__all__ = [
    "REPORT",
    "TRAINABLE",
    "Dataset",
    "Sample",
    "batches",
    "calibration_subset",
    "coverage",
    "match_labels",
    "open_dataset",
    "validation_split",
]
