"""Data: from images on disk or in arrays to the pictures that the network sees (paper, section 3.1).

An *image* is a sample as it is stored or decoded. A *picture* is made from an image: augmented, normalised, of the
network's size. In the order in which data flow:

    reading/       data sets: what is on disk, in arrays or in Python objects, and one decoded image
    normalization  mean, deviation and colours of the training images
    augmentation   the transformations, their ranges, and presets
    pictures       from sample numbers to pictures
    survey         a look at some training images before a run
    serving/       the data server that fills the rings; pictures made by or for other machines
    mnist/         the embedded data set: MNIST by Y. LeCun and C. Cortes, CC BY-SA 3.0

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`, `transport`, `compute`.
"""
