//! How does a test speak NBD? A client with blocking sockets, a queue depth, and reconnect-and-resend.
//!
//! Source: the NBD protocol document (fixed newstyle negotiation, `NBD_OPT_GO`, structured replies).

mod client;
mod handshake;
mod reply;
mod request;
mod target;

pub use client::{Client, Completion, Options};
pub use handshake::Export;
pub use reply::Answer;
pub use request::Request;
pub use target::{Address, Target};

/// Why a request or a connection failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server answered with an error number (1 EPERM, 5 EIO, 22 EINVAL, 28 ENOSPC, 108 ESHUTDOWN …).
    #[error("server answered error {0}")]
    Server(u32),
    /// The connection is gone and is not, or could not be, made again.
    #[error("connection lost: {0}")]
    Disconnected(String),
    /// The server broke the protocol.
    #[error("protocol broken by the server: {0}")]
    Protocol(String),
    /// The server refused the export or an option, in its words.
    #[error("refused by the server: {0}")]
    Refused(String),
    /// The text given as a target is not one.
    #[error("`{0}` is not an NBD target: write nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME")]
    Target(String),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Disconnected(error.to_string())
    }
}
