"""One file a model, each with ``construct(input_shape, num_classes)`` that returns a ``keras.Model``.

A model takes pixels as they are, uint8 values from 0 to 255, and normalises them itself; it ends with probabilities. Keras is
imported inside ``construct``, so that ``python train.py --help`` need not wait for it. A model with ImageNet weights takes a
third argument ``weights``. Its key in ``config.MODELS`` is what ``--model`` takes.
``backbone.py`` holds what the models on Keras's applications share.
"""
