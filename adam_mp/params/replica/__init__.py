"""A replica's side: its synchronizer exchanges the local store's weights with the parameter servers."""
