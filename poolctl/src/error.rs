//! How does a person or script learn that something went wrong? Message, hint and exit code, from one kind of error.

use std::io::Write;
use std::process::ExitCode;

use api::error::ErrorBody;
use api::{ApiError, ErrorKind};

use crate::output::Output;

/// How a command ended that has said all there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it was asked.
    Done,
    /// Otherwise; the data on stdout says how.
    But(ErrorKind),
}

impl Ending {
    /// What the process ends with.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Ending::Done => ExitCode::SUCCESS,
            Ending::But(kind) => ExitCode::from(kind.exit_code()),
        }
    }
}

/// Ends a command with `error`: told on stderr, and for scripts as an object on stdout too.
pub fn report(error: &ApiError, output: Output) -> ExitCode {
    tell(error);
    if output.is_json() {
        // With stdout gone the exit code still says it.
        let _ = output.object(&ErrorBody { error: error.clone() });
    }
    ExitCode::from(error.kind.exit_code())
}

/// The message, then what to do next on lines of their own.
pub fn tell(error: &ApiError) {
    let word = if error.kind == ErrorKind::Degraded {
        "warning"
    } else {
        "error"
    };
    let mut text = format!("{word}: {}\n", error.message);
    for line in error.hint.iter().flat_map(|hint| hint.lines()) {
        text.push_str(&format!("hint: {line}\n"));
    }
    // With stderr gone the exit code still says it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Says something on stderr: what to do next, what is going on.
pub fn say(text: &str, output: Output) {
    if !output.is_json() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
