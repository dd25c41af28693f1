//! What happened, in one line? And in one number, for the digest of a run; bulk data is named by length and hash.

use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};

use mars::{Effect, Event, GuestRequest, Input, Message, Output, Reply, VolumeData};
use xxhash_rust::xxh3::xxh3_64;

fn bulk(f: &mut dyn Write, bytes: &[u8]) -> fmt::Result {
    write!(f, "{} bytes #{:08x}", bytes.len(), xxh3_64(bytes) >> 32)
}

fn volume_data(f: &mut dyn Write, data: &VolumeData) -> fmt::Result {
    match data {
        VolumeData::Zeroes => f.write_str("zeroes"),
        VolumeData::Data(data) => bulk(f, data),
    }
}

fn message(f: &mut dyn Write, message: &Message) -> fmt::Result {
    match message {
        Message::Log {
            at,
            committed,
            horizon,
            bytes,
        } => {
            write!(f, "Log {at} committed {committed} horizon {horizon} ")?;
            bulk(f, bytes)
        }
        Message::SyncRequest { id, range, digests } => {
            write!(
                f,
                "SyncRequest {id} at {} extents {} #{:08x}",
                range.start.0,
                digests.len(),
                hash_of(digests)
            )
        }
        Message::SyncReply { id, end, extents } => {
            write!(f, "SyncReply {id} end {end} extents {} ", extents.len())?;
            bulk(
                f,
                &Message::SyncReply {
                    id: *id,
                    end: *end,
                    extents: extents.clone(),
                }
                .encode(),
            )
        }
        Message::Survey { end, map } => write!(f, "Survey end {end} {map:?}"),
        Message::Dirty { base, map } => write!(f, "Dirty since {} {map:?}", base.lsn),
        other => write!(f, "{other:?}"),
    }
}

fn hash_of(digests: &[u128]) -> u32 {
    digests
        .iter()
        .fold(0u128, |sum, digest| sum.rotate_left(7) ^ digest) as u32
}

/// Which variant a value is, and the numbers that tell it from others of its kind.
fn print_of<T>(value: &T, numbers: [u64; 3]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::mem::discriminant(value).hash(&mut hasher);
    numbers.hash(&mut hasher);
    hasher.finish()
}

fn numbers_of_message(link: u64, message: &Message) -> [u64; 3] {
    match message {
        Message::Log {
            at, committed, bytes, ..
        } => [link, at.0 ^ committed.0 << 32, bytes.len() as u64],
        Message::Ack {
            appended,
            committed,
            written_back,
            ..
        } => [appended.0, committed.0, written_back.0],
        Message::SyncRequest { id, range, digests } => [*id, range.start.0, u64::from(hash_of(digests))],
        Message::SyncReply { id, end, extents } => [*id, end.0, extents.len() as u64],
        other => [link, print_of(other, [0; 3]), 0],
    }
}

/// Tells an event from others.
pub(crate) fn print_of_event(event: &Event) -> u64 {
    let numbers = match event {
        Event::Guest { tag, .. } => [tag.0, 0, 0],
        Event::LogRead { id, bytes } => [id.0, bytes.len() as u64, 0],
        Event::Message { link, message } => numbers_of_message(link.0, message),
        _ => [0; 3],
    };
    print_of(event, numbers)
}

/// Tells an effect from others.
pub(crate) fn print_of_effect(effect: &Effect) -> u64 {
    let numbers = match effect {
        Effect::AppendLog { at, bytes } => [at.0, bytes.len() as u64, 0],
        Effect::WriteVolume { id, range, .. } => [id.0, range.start.0, range.count.0],
        Effect::SaveMeta { generation, meta } => [*generation, meta.touched.0, meta.committed.lsn.0],
        Effect::Send { link, message } => numbers_of_message(link.0, message),
        Effect::Complete { tag, result } => [tag.0, u64::from(result.is_ok()), 0],
        _ => [0; 3],
    };
    print_of(effect, numbers)
}

/// Writes a guest's request.
pub(crate) fn request(f: &mut dyn Write, request: &GuestRequest) -> fmt::Result {
    match request {
        GuestRequest::Write { range, data, fua } => {
            write!(f, "Write {range}{} ", if *fua { " fua" } else { "" })?;
            bulk(f, data)
        }
        other => write!(f, "{other:?}"),
    }
}

/// Writes an event.
pub(crate) fn event(f: &mut dyn Write, event: &Event) -> fmt::Result {
    match event {
        Event::Guest { tag, request: asked } => {
            write!(f, "Guest {} ", tag.0)?;
            request(f, asked)
        }
        Event::LogRead { id, bytes } => {
            write!(f, "LogRead {} ", id.0)?;
            bulk(f, bytes)
        }
        Event::VolumeRead { id, data } => {
            write!(f, "VolumeRead {} ", id.0)?;
            volume_data(f, data)
        }
        Event::TracksLoaded { id, tracks } => {
            write!(f, "TracksLoaded {}", id.0)?;
            tracks.iter().try_for_each(|(peer, track)| {
                write!(f, " {peer} ")?;
                bulk(f, track)
            })
        }
        Event::Message { link, message: said } => {
            write!(f, "Message {} ", link.0)?;
            message(f, said)
        }
        other => write!(f, "{other:?}"),
    }
}

/// Writes an effect.
pub(crate) fn effect(f: &mut dyn Write, effect: &Effect) -> fmt::Result {
    match effect {
        Effect::AppendLog { at, bytes } => {
            write!(f, "AppendLog {at} ")?;
            bulk(f, bytes)
        }
        Effect::WriteVolume { id, range, data } => {
            write!(f, "WriteVolume {} {range}", id.0)?;
            data.iter().try_for_each(|piece| {
                f.write_str(" ")?;
                bulk(f, piece)
            })
        }
        Effect::SaveMeta { generation, meta } => write!(
            f,
            "SaveMeta {generation} {}{} epoch {} trimmed {} back {} touched {} committed {} {:?} granted {:?} lineage {}",
            meta.role,
            if meta.straight { " straight" } else { "" },
            meta.epoch,
            meta.trimmed,
            meta.written_back.lsn,
            meta.touched,
            meta.committed.lsn,
            meta.sync,
            meta.granted.as_ref().map(|granted| &granted.to),
            meta.lineage.len(),
        ),
        Effect::SaveTrack { id, peer, track } => {
            write!(f, "SaveTrack {} {peer} ", id.0)?;
            bulk(f, track.as_deref().unwrap_or_default())
        }
        Effect::Send { link, message: said } => {
            write!(f, "Send {} ", link.0)?;
            message(f, said)
        }
        Effect::Complete {
            tag,
            result: Ok(Reply::Data(data)),
        } => {
            write!(f, "Complete {} Data ", tag.0)?;
            bulk(f, data)
        }
        other => write!(f, "{other:?}"),
    }
}

/// Writes what a session is told.
pub(crate) fn input(f: &mut dyn Write, input: &Input) -> fmt::Result {
    match input {
        Input::Guest { tag, request: asked } => {
            write!(f, "Guest {} ", tag.0)?;
            request(f, asked)
        }
        Input::Answer {
            generation,
            seq,
            result: Ok(Reply::Data(data)),
        } => {
            write!(f, "Answer {generation} {seq} Data ")?;
            bulk(f, data)
        }
        other => write!(f, "{other:?}"),
    }
}

/// Writes what a session asks for.
pub(crate) fn output(f: &mut dyn Write, output: &Output) -> fmt::Result {
    match output {
        Output::Send {
            generation,
            seq,
            request: asked,
        } => {
            write!(f, "Send {generation} {seq} ")?;
            request(f, asked)
        }
        Output::Complete {
            tag,
            result: Ok(Reply::Data(data)),
        } => {
            write!(f, "Complete {} Data ", tag.0)?;
            bulk(f, data)
        }
        other => write!(f, "{other:?}"),
    }
}
