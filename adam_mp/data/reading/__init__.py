"""Reading: what is on disk, in arrays or in Python objects becomes a data set, and bytes become a decoded image.

The modules of this folder:

    dataset       a data set: its parts, its sample numbers, its split and the order of an epoch
    loading       from what a user gives as data to a data set; knows all formats
    samples       one kind of part: images in memory as arrays
    records       one kind of part: encoded images in files
    items         one kind of part: the items of a Python object
    idx           format: IDX files, as MNIST has them
    array_files   format: .npz and .npy files
    image_folder  format: a folder for each class
    shards        format: tar shards (WebDataset)
    decoding      from the bytes of an image file to pixels
    sources       where a process gets the pixels of a sample: from records or items
    faults        what can be wrong with a sample
"""
