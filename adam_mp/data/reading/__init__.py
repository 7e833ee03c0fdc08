"""Reading: what is on disk, in arrays or in Python objects becomes a data set, and bytes become a decoded image.

The modules of this folder:

    dataset       a data set: its parts, its sample numbers, its split and the order of an epoch
    loading       from what a user gives as data to a data set; knows all formats
    fingerprint   what a data set is, wherever it lies: a resumed run knows its data again by it
    account       what a loader saw: the parts, what it left out and why, what it could not use
    part_names    which names of folders, shards and arrays say train, validation or test
    array_names   which names of arrays say images or labels
    image_kinds   which files are images, and which nobody meant to be there
    samples       one kind of part: images in memory as arrays
    records       one kind of part: encoded images in files
    items         one kind of part: the items of a Python object
    idx           format: IDX files, as MNIST has them
    array_files   format: .npz and .npy files
    image_folder  format: a folder for each class; its part_folders and class_folders, and what cannot be meant_classes
    shards        format: tar shards (WebDataset); shard_samples finds the samples of one
    beside        what lies beside the data in their folder: a second kind of data is refused
    decoding      from the bytes of an image file to pixels
    sources       where a process gets the pixels of a sample: from records or items
    faults        what can be wrong with a sample
"""
