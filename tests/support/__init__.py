"""What tests of every room share: a simulated disk, and disks that fail on request."""
