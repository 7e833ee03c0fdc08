"""The worker: the paper's training loop, and the ways in which workers keep together.

Read `worker` first: the loop of a worker process. `step` is the interface between the loop and what differs between the
consistency modes: `asynchronous` updates at once, `bounded` does so until the worker is too far ahead of the slowest,
`synchronous` makes each update together with all workers. `slot_programs` keeps a training program for each slot of the
worker's rings, `learning_rate` sets the rate of each update, `averaging` moves the average of
the weights, `evaluator` measures chunks of validation and test data. `spec` is what a worker is told.

A worker that has a part of the model is a `member` of a group: it has several `lanes`, each with a batch on its way,
and one for `scoring`. The first member is `leading`.
"""
