//! What is said when a request cannot be done? A kind for code, a message, a hint and an object for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request was not done. One map leads from here to HTTP statuses and exit codes: [`ErrorKind::http_status`] and
/// [`ErrorKind::exit_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The system below failed; trying again may help.
    Failed,
    /// The request itself is wrong: a name, a size, a missing field.
    Usage,
    /// No such volume, node, job …
    NotFound,
    /// Would endanger data, guests or the pool; the hint says what would make it allowed.
    Refused,
    /// Some of it was done.
    PartlyDone,
    /// Took too long; the hint says how to see what became of it.
    TimedOut,
    /// Done, but the pool is degraded.
    Degraded,
    /// The daemon that should answer cannot be reached.
    Unavailable,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [ErrorKind; 8] = [
        ErrorKind::Failed,
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::Refused,
        ErrorKind::PartlyDone,
        ErrorKind::TimedOut,
        ErrorKind::Degraded,
        ErrorKind::Unavailable,
    ];

    /// HTTP status and exit code: the one place where both are given.
    const fn codes(self) -> (u16, u8) {
        match self {
            ErrorKind::Failed => (500, 1),
            ErrorKind::Usage => (400, 2),
            ErrorKind::NotFound => (404, 3),
            ErrorKind::Refused => (409, 4),
            ErrorKind::PartlyDone => (502, 5),
            ErrorKind::TimedOut => (504, 6),
            ErrorKind::Degraded => (507, 7),
            ErrorKind::Unavailable => (503, 1),
        }
    }

    /// Status of an HTTP answer that carries this kind; each kind has its own.
    pub const fn http_status(self) -> u16 {
        self.codes().0
    }

    /// What `poolctl` ends with, as the contract lists it.
    pub const fn exit_code(self) -> u8 {
        self.codes().1
    }
}

/// A bad answer; unless its kind is `partly-done`, nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ApiError {
    /// For code.
    pub kind: ErrorKind,
    /// What is wrong and why, in one sentence.
    pub message: String,
    /// What to do next, often the command to type.
    #[serde(default)]
    pub hint: Option<String>,
    /// On which object: `volume web-1`, `node a`.
    #[serde(default)]
    pub object: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ApiError {
    /// An error without hint and object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ApiError {
        ApiError {
            kind,
            message: message.into(),
            hint: None,
            object: None,
        }
    }

    /// The system below failed.
    pub fn failed(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::Failed, message)
    }

    /// The request is wrong.
    pub fn usage(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::Usage, message)
    }

    /// No such object.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::NotFound, message)
    }

    /// Refused for safety.
    pub fn refused(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::Refused, message)
    }

    /// Took too long.
    pub fn timed_out(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::TimedOut, message)
    }

    /// Nobody answers.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::Unavailable, message)
    }

    /// The same error with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with the object it is about.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> ApiError {
        self.object = Some(object.into());
        self
    }
}

/// The body of a bad answer: `{"error":{"kind","message","hint","object"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_http_status_and_a_code_of_the_contract() {
        let mut statuses: Vec<u16> = ErrorKind::ALL.iter().map(|kind| kind.http_status()).collect();
        statuses.sort_unstable();
        statuses.dedup();
        assert_eq!(statuses.len(), ErrorKind::ALL.len());
        assert!(
            ErrorKind::ALL
                .iter()
                .all(|kind| (1..=7).contains(&kind.exit_code()))
        );
        assert_eq!(ErrorKind::Refused.exit_code(), 4);
        assert_eq!(ErrorKind::Degraded.exit_code(), 7);
    }

    #[test]
    fn an_error_is_written_as_the_contract_says() {
        let error = ApiError::not_found("there is no volume web")
            .hint("poolctl volume list")
            .object("volume web");
        let text = serde_json::to_value(ErrorBody { error }).expect("plain strings");
        assert_eq!(
            text,
            serde_json::json!({"error": {"kind": "not-found", "message": "there is no volume web",
                "hint": "poolctl volume list", "object": "volume web"}})
        );
    }
}
