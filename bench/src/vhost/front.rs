//! What does a vhost-user front end say? Messages on a Unix socket, with files beside them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Most files beside a message.
const FILES_MAX: usize = 8;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of messages.
pub mod code {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
}

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;

/// A connection.
#[derive(Debug)]
pub struct Front(UnixStream);

impl AsFd for Front {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Front {
    /// Connects.
    pub fn connect(path: &Path) -> io::Result<Front> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Front(stream))
    }

    /// Sends any bytes with any files.
    pub fn send(&mut self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
        let header = [request, VERSION | flags, body.len() as u32];
        let mut bytes = header.map(u32::to_le_bytes).concat();
        bytes.extend(body);
        bytes
    }

    /// Says something that has no answer.
    pub fn say(&mut self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(&Front::message(request, 0, body), files)
    }

    /// Says something and waits until it is acknowledged.
    pub fn tell(&mut self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Acknowledgements come once their feature was agreed on; before that, the next answer is as good.
        if request == code::SET_PROTOCOL_FEATURES {
            return self.say(request, body, files);
        }
        self.send(&Front::message(request, NEED_REPLY, body), files)?;
        let (answer, _) = self.receive()?;
        match answer.first() {
            Some(0) => Ok(()),
            _ => Err(io::Error::other(format!("message {request} was refused"))),
        }
    }

    /// Asks; the body of the answer.
    pub fn ask(&mut self, request: u32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.ask_with(request, body, &[])
    }

    /// Asks with files; the body of the answer.
    pub fn ask_with(&mut self, request: u32, body: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
        self.say(request, body, files)?;
        Ok(self.receive()?.0)
    }

    /// Asks for a number.
    pub fn ask_u64(&mut self, request: u32) -> io::Result<u64> {
        let answer = self.ask(request, &[])?;
        let bytes = <[u8; 8]>::try_from(&answer[..]).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Asks for a file; it and the body beside it.
    pub fn ask_file(&mut self, request: u32, body: &[u8]) -> io::Result<(File, Vec<u8>)> {
        self.say(request, body, &[])?;
        match self.receive()? {
            (body, Some(file)) => Ok((File::from(file), body)),
            (_, None) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn receive(&mut self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut header = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut header)];
        let received = rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes != header.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut file = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.last();
            }
        }
        let [.., s0, s1, s2, s3] = header;
        let mut body = vec![0; u32::from_le_bytes([s0, s1, s2, s3]) as usize];
        self.0.read_exact(&mut body)?;
        Ok((body, file))
    }

    /// Whether the other side hangs up within `patience`.
    pub fn is_dropped(&mut self, patience: Duration) -> bool {
        let mut byte = [0];
        let limit = self.0.set_read_timeout(Some(patience));
        limit.is_err()
            || !matches!(self.0.read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
