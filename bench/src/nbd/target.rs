//! Where is the server, and which export is meant?

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Error;

/// Port of NBD when a URI names none.
const PORT_DEFAULT: u16 = 10809;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// A server and the name of one of its exports (empty: its default export).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// Which.
    pub export: String,
}

impl Target {
    /// An export behind a Unix socket.
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Target {
            address: Address::Unix(path.into()),
            export: export.into(),
        }
    }

    /// An export behind a TCP address (`host:port`).
    pub fn tcp(address: impl Into<String>, export: impl Into<String>) -> Self {
        Target {
            address: Address::Tcp(address.into()),
            export: export.into(),
        }
    }

    /// Opens a socket to it; gives up on TCP after ten seconds.
    pub(super) fn connect(&self) -> io::Result<Stream> {
        match &self.address {
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path)?)),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "nbd+unix:///{}?socket={}", self.export, path.display()),
            Address::Tcp(address) => write!(f, "nbd://{address}/{}", self.export),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    /// Understands `nbd+unix:///NAME?socket=PATH` and `nbd://HOST[:PORT]/NAME`; no escapes: our names need none.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Target(text.to_owned());
        if let Some(rest) = text.strip_prefix("nbd+unix://") {
            let (export, query) = rest.trim_start_matches('/').split_once('?').ok_or_else(bad)?;
            let socket = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("socket="))
                .ok_or_else(bad)?;
            if socket.is_empty() {
                return Err(bad());
            }
            return Ok(Target::unix(socket, export));
        }
        let rest = text.strip_prefix("nbd://").ok_or_else(bad)?;
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(bad());
        }
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port {
            host.to_owned()
        } else {
            format!("{host}:{PORT_DEFAULT}")
        };
        Ok(Target::tcp(address, export))
    }
}

/// A connected socket of either family.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    /// Wakes whoever reads or writes this socket; a socket that is gone already is as good.
    pub(super) fn shutdown(&self) {
        let _gone_already = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(timeout),
            Stream::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.write(buffer),
            Stream::Tcp(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_understood_and_printed_back() {
        let unix: Target = "nbd+unix:///web?socket=/run/x.sock".parse().unwrap();
        assert_eq!(unix, Target::unix("/run/x.sock", "web"));
        assert_eq!(unix.to_string().parse::<Target>().unwrap(), unix);
        let tcp: Target = "nbd://127.0.0.1:4000/web".parse().unwrap();
        assert_eq!(tcp, Target::tcp("127.0.0.1:4000", "web"));
        assert_eq!(tcp.to_string().parse::<Target>().unwrap(), tcp);
        assert_eq!(
            "nbd://host".parse::<Target>().unwrap(),
            Target::tcp("host:10809", "")
        );
        assert_eq!(
            "nbd+unix://?socket=/a".parse::<Target>().unwrap(),
            Target::unix("/a", "")
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "nbd://",
            "nbd:///x",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "http://x/",
        ] {
            assert!(matches!(text.parse::<Target>(), Err(Error::Target(_))), "{text}");
        }
    }
}
