"""What every room uses: arrays, ids, labels, messages, threads."""
