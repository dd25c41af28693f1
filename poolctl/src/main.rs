//! What does a person or script type to run the pool? Reads the command line, asks the local poold, prints the answer.

mod cli;
mod completion;
mod error;
mod events;
mod job;
mod limit;
mod migrate;
mod node;
mod output;
mod pool;
mod progress;
mod run;
mod status;
mod vg;
mod volume;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::main(std::env::args_os().collect())
}
