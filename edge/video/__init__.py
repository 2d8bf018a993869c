"""Video into an engine: cameras, streams, files and folders that fill, as one object a frame."""
