//! Does each verb of an operator do what it says, on built programs, while a guest writes?

mod drain;
mod snapshot;
mod split;
mod switches;
mod verify;
