"""Who is in a run of many machines and owns what: the coordinator, its members, their messages, the bucket map."""
