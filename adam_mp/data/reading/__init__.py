"""Images as they lie on disk or in arrays: data sets, their items, and one decoded image."""
