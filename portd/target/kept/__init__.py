"""What is kept in the target for the link: checkpoint, epoch, lease, and what is put right later."""
