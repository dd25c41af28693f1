//! How does a test cut a network? By wires: each host's peers reach it through a forwarder that can be told to fail.
//!
//! A wire stands in front of one host's peer port; when every host has one, cutting all of them parts all hosts from each
//! other while their local clients and the control plane notice nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// How often a forwarder that has nothing to carry looks whether it should still be there.
const LOOK: Duration = Duration::from_millis(20);

/// Carried at one time.
const PIECE_BYTES: usize = 256 << 10;

/// What a wire does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// Carries it.
    Whole = 0,
    /// Connections break, new ones are closed at once: what a host that was switched off looks like.
    Cut = 1,
    /// Connections stay and carry nothing: what a pulled cable looks like.
    Silent = 2,
}

/// A forwarder from an address of its own to one host; gone when dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    condition: AtomicU8,
    ended: AtomicU8,
    /// Both ends of every connection, to be broken by a cut.
    connections: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// Begins to forward to `to`.
    pub fn to(to: SocketAddr) -> Result<Wire> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for a wire")?;
        let address = listener.local_addr().context("a wire's own address")?;
        let shared = Arc::new(Shared {
            to,
            condition: AtomicU8::new(Condition::Whole as u8),
            ended: AtomicU8::new(0),
            connections: Mutex::default(),
        });
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Ok(Wire {
            address,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Where peers are to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, condition: Condition) {
        self.shared.condition.store(condition as u8, Ordering::SeqCst);
        if condition == Condition::Cut {
            self.shared.break_all();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ended.store(1, Ordering::SeqCst);
        self.shared.break_all();
        // The accepting thread waits for somebody; this is somebody.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
            && !thread::panicking()
        {
            panic!("a wire's thread has panicked");
        }
    }
}

impl Shared {
    fn is(&self, condition: Condition) -> bool {
        self.condition.load(Ordering::SeqCst) == condition as u8
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst) != 0
    }

    fn break_all(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            // One that is broken already is as it should be.
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((near, _)) = listener.accept() {
            if self.has_ended() {
                return;
            }
            if self.is(Condition::Cut) {
                continue;
            }
            // A host that is down refuses: so does its wire.
            if let Ok(far) = TcpStream::connect(self.to) {
                // A connection that ended while it was being made needs no forwarder.
                drop(self.forward(near, far));
            }
        }
    }

    fn forward(self: &Arc<Self>, near: TcpStream, far: TcpStream) -> std::io::Result<()> {
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
        }
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.extend([near.try_clone()?, far.try_clone()?]);
        drop(connections);
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            let shared = self.clone();
            thread::spawn(move || shared.carry(from, to));
        }
        Ok(())
    }

    /// Carries one direction until either end is gone.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = vec![0; PIECE_BYTES];
        while !self.has_ended() {
            let count = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            // What was under way when the cable was pulled arrives when it is back, as TCP sends it again.
            while self.is(Condition::Silent) && !self.has_ended() {
                thread::sleep(LOOK);
            }
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every byte with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        let mut byte = [7];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    #[test]
    fn a_wire_carries_breaks_and_holds_back() {
        let wire = Wire::to(echo()).unwrap();
        let connect = || {
            let stream = TcpStream::connect(wire.address()).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            stream
        };
        let mut client = connect();
        assert_eq!(ask(&mut client).unwrap(), 7);
        wire.set(Condition::Silent);
        let held = ask(&mut client).unwrap_err();
        assert!(
            matches!(held.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{held}"
        );
        wire.set(Condition::Whole);
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [7]);
        wire.set(Condition::Cut);
        assert!(ask(&mut client).is_err());
        assert!(ask(&mut connect()).is_err());
        wire.set(Condition::Whole);
        assert_eq!(ask(&mut connect()).unwrap(), 7);
    }
}
