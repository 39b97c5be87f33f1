"""Models: each file is a ``--model`` by its name.

A file has a function ``construct(input_shape, task, weights=None)`` that returns a ``keras.Model``:
uint8 pixels, 0 to 255, (batch, height, width, 3), as the input, which the model normalizes itself,
and ``task.head(features)`` as its outputs. Without the parameter ``weights`` it has no pretrained
weights. ``_backbone.py`` is shared by the models on pretrained backbones; files that begin with an
underscore are not models.
"""
