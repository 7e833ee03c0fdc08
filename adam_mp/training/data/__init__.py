"""What is decided about a data set before a run.

`data_plan` decides which samples to train, validate and test on, their size, augmentation and cache. `surveying` runs
the survey, `kept_images` owns the cache that the survey fills until a run takes it over, `preview` makes pictures of
some samples, as the workers will see them; `understanding` says what was understood of the data.
"""
