"""Models: ``--model`` selects one of these files by name.

Each file defines ``construct(input_shape, task, weights=None)``, which returns a ``keras.Model``.
Its input is uint8 pixels, 0 to 255, (batch, height, width, 3), which the model normalizes itself;
its outputs are ``task.head(features)``. Omit the parameter ``weights`` if there are no pretrained
weights. ``_backbone.py`` is shared by the pretrained models; files that begin with an underscore
are not models.
"""
