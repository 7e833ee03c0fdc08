"""Where images come from: data sets, their split, augmentation, and the data-server process that fills the rings.

`idx` reads files, `dataset` holds and checks images and labels, `augmentation` names the transformations, `server` is
the process (paper, section 3.1). `picture_service` and `makers` make pictures for other machines, which ask through
`remote`. The folder `mnist` holds the embedded set: MNIST by Y. LeCun and C. Cortes,
CC BY-SA 3.0.

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`, `transport`, `compute`.
"""
