//! What happens when a thread of a volume panics? The process dies: better dead than wrong.

use std::io;
use std::thread::{Builder, JoinHandle};

use tracing::{Span, error};

/// Aborts the process when it is dropped by a panic.
struct Guard {
    name: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(
                thread = self.name,
                "an invariant broke; marsd ends itself so that nothing wrong is written"
            );
            std::process::abort();
        }
    }
}

/// Starts a thread whose panic ends the process; its log lines carry `span`.
///
/// Errors: the system has no room for another thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    span: Span,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let guard = Guard {
        name: name.to_owned(),
    };
    Builder::new().name(name.to_owned()).spawn(move || {
        let _entered = span.entered();
        let _guard = guard;
        body()
    })
}
