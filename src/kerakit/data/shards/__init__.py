"""Shards: images in tar files, with one index; written by ``kerakit pack``, read by the readers."""
