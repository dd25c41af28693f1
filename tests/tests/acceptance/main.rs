//! Does everything hold that MARS's own test suite asks of a replicated device? Its cases by their numbers, from outside.
//!
//! The cases are those of `test_suite/` in MARS's repository, described there by directory names: A admin, F forced
//! switch, H hardcore, S stability. *P* is the first primary, *S* its replica, *W* a writer that never stops and checks
//! what it reads, *EQ* the final rule: all replicas equal, byte by byte, to the device. Where ours is meant to do better
//! than MARS (a planned switch works while the device is open), the case says so.

mod admin;
mod forced;
mod full;
mod hardcore;
mod large;
mod logs;
mod pair;
mod size;
mod source;
mod stability;
mod syncs;
