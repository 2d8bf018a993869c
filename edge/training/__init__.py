"""Training: the trainer and the folder of its run, recipes, augmentation. Needs torch and
torchvision."""
