//! Software bus masters: a data mover and a pointer walker.
