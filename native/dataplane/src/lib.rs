//! penstock's data plane: where bytes move. No Python in it.
