//! The composition root: the one file that names every part, and the order of start and stop.
