"""The engines: each evaluates one kind of covariance, in a folder of its own, behind one protocol."""
