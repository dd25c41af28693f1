//! What do client and server agree on before the first request? Fixed newstyle negotiation.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::protocol::{
    ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID, ClientFlags, InfoRequest, MetaRequest, OPTION_HEADER_BYTES,
    OptionHeader, PAYLOAD_BYTES_MAX, info, option, option_reply as reply, put_greeting, put_option_reply,
    transmission as flag,
};
use super::request::Terms;
use super::{ConnectionError, Export};

/// Smallest and preferred request, in bytes.
const BLOCK_BYTES_MIN: u32 = 512;
const BLOCK_BYTES_PREFERRED: u32 = 4096;

/// How a negotiation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client said goodbye.
    Left,
    /// Requests follow.
    Begin(Terms),
}

/// What the client has settled so far.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    structured: bool,
    allocation: bool,
}

/// What follows the answers to an option.
enum Next {
    Option,
    Leave,
    Begin,
}

/// Greets, answers options, ends with the terms that were agreed on.
pub async fn negotiate<R, W>(
    reader: &mut R,
    writer: &mut W,
    export: &Export,
) -> Result<Outcome, ConnectionError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    put_greeting(&mut out);
    writer.write_all_buf(&mut out).await?;
    writer.flush().await?;

    let mut flags = [0; 4];
    reader.read_exact(&mut flags).await?;
    let client = ClientFlags::decode(flags)?;
    let mut settled = Settled::default();
    loop {
        let mut header = [0; OPTION_HEADER_BYTES];
        reader.read_exact(&mut header).await?;
        let header = OptionHeader::decode(&header)?;
        let mut data = vec![0; header.length as usize];
        reader.read_exact(&mut data).await?;
        if !client.fixed_newstyle && header.option != option::EXPORT_NAME {
            let what = format!("option {} without fixed newstyle negotiation", header.option);
            return Err(ConnectionError::Unacceptable { what });
        }
        let next = if header.option == option::EXPORT_NAME {
            export_name(&data, client, export, settled, &mut out)?
        } else {
            answer(header.option, &data, export, &mut settled, &mut out)
        };
        writer.write_all_buf(&mut out).await?;
        writer.flush().await?;
        match next {
            Next::Option => {}
            Next::Leave => return Ok(Outcome::Left),
            Next::Begin => {
                return Ok(Outcome::Begin(Terms {
                    size: export.size,
                    read_only: export.read_only,
                    structured: settled.structured,
                    allocation: settled.allocation,
                }));
            }
        }
    }
}

fn export_name(
    name: &[u8],
    client: ClientFlags,
    export: &Export,
    settled: Settled,
    out: &mut BytesMut,
) -> Result<Next, ConnectionError> {
    if !is_export(name, export) {
        let what = format!(
            "the export `{}`, which is not here",
            String::from_utf8_lossy(name).escape_debug()
        );
        return Err(ConnectionError::Unacceptable { what });
    }
    out.put_u64(export.size.bytes());
    out.put_u16(transmission_flags(export, settled));
    if !client.no_zeroes {
        out.put_bytes(0, 124);
    }
    Ok(Next::Begin)
}

fn is_export(name: &[u8], export: &Export) -> bool {
    name.is_empty() || name == export.name.as_str().as_bytes()
}

/// Every option but EXPORT_NAME.
fn answer(number: u32, data: &[u8], export: &Export, settled: &mut Settled, out: &mut BytesMut) -> Next {
    let mut say = |kind: u32, data: &[u8]| put_option_reply(out, number, kind, data);
    match number {
        option::ABORT => {
            say(reply::ACK, &[]);
            return Next::Leave;
        }
        option::LIST if !data.is_empty() => say(reply::ERR_INVALID, b"LIST takes no data"),
        option::LIST => {
            let name = export.name.as_str();
            let mut entry = BytesMut::new();
            entry.put_u32(u32::try_from(name.len()).expect("a name has at most 63 bytes"));
            entry.put_slice(name.as_bytes());
            say(reply::SERVER, &entry);
            say(reply::ACK, &[]);
        }
        option::STARTTLS if !data.is_empty() => say(reply::ERR_INVALID, b"STARTTLS takes no data"),
        option::STARTTLS => say(reply::ERR_POLICY, b"this door is local and speaks plain text"),
        option::INFO | option::GO => {
            let Some(request) = InfoRequest::decode(data) else {
                say(reply::ERR_INVALID, b"malformed INFO or GO");
                return Next::Option;
            };
            if !is_export(request.name.as_bytes(), export) {
                say(reply::ERR_UNKNOWN, b"no such export");
                return Next::Option;
            }
            for fact in facts(&request, export, *settled) {
                say(reply::INFO, &fact);
            }
            say(reply::ACK, &[]);
            if number == option::GO {
                return Next::Begin;
            }
        }
        option::STRUCTURED_REPLY if !data.is_empty() => {
            say(reply::ERR_INVALID, b"STRUCTURED_REPLY takes no data");
        }
        option::STRUCTURED_REPLY => {
            settled.structured = true;
            say(reply::ACK, &[]);
        }
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
            let setting = number == option::SET_META_CONTEXT;
            if setting {
                settled.allocation = false;
            }
            let Some(request) = MetaRequest::decode(data).filter(|_| settled.structured) else {
                say(
                    reply::ERR_INVALID,
                    b"malformed, or structured replies were not negotiated first",
                );
                return Next::Option;
            };
            if !is_export(request.name.as_bytes(), export) {
                say(reply::ERR_UNKNOWN, b"no such export");
                return Next::Option;
            }
            let mut context = BytesMut::new();
            context.put_u32(if setting { ALLOCATION_CONTEXT_ID } else { 0 });
            context.put_slice(ALLOCATION_CONTEXT.as_bytes());
            if setting && request.selects_allocation() {
                settled.allocation = true;
                say(reply::META_CONTEXT, &context);
            } else if !setting && request.lists_allocation() {
                say(reply::META_CONTEXT, &context);
            }
            say(reply::ACK, &[]);
        }
        _ => say(reply::ERR_UNSUP, b"unknown option"),
    }
    Next::Option
}

fn facts(request: &InfoRequest, export: &Export, settled: Settled) -> Vec<BytesMut> {
    let fact = |kind: u16| {
        let mut fact = BytesMut::new();
        fact.put_u16(kind);
        fact
    };
    let mut basics = fact(info::EXPORT);
    basics.put_u64(export.size.bytes());
    basics.put_u16(transmission_flags(export, settled));
    let mut sizes = fact(info::BLOCK_SIZE);
    sizes.put_u32(BLOCK_BYTES_MIN);
    sizes.put_u32(BLOCK_BYTES_PREFERRED);
    sizes.put_u32(PAYLOAD_BYTES_MAX);
    let mut facts = vec![basics, sizes];
    if request.name.is_empty() || request.infos.contains(&info::NAME) {
        let mut name = fact(info::NAME);
        name.put_slice(export.name.as_str().as_bytes());
        facts.push(name);
    }
    facts
}

fn transmission_flags(export: &Export, settled: Settled) -> u16 {
    let mut flags = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE
        | flag::SEND_FAST_ZERO;
    if settled.structured {
        flags |= flag::SEND_DF;
    }
    if export.read_only {
        flags |= flag::READ_ONLY;
    }
    flags
}

#[cfg(test)]
mod tests {
    use model::{VolumeName, VolumeSize};
    use proptest::prelude::*;

    use super::super::protocol::{OPTION_MAGIC, OPTION_REPLY_MAGIC};
    use super::*;

    fn export() -> Export {
        Export {
            name: VolumeName::new("vol").expect("valid"),
            size: VolumeSize::new(1 << 20).expect("aligned"),
            read_only: false,
        }
    }

    fn option_bytes(number: u32, data: &[u8]) -> Vec<u8> {
        let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend(number.to_be_bytes());
        out.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
        out.extend(data);
        out
    }

    fn go(name: &str) -> Vec<u8> {
        let mut data = u32::try_from(name.len()).expect("short").to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend([0, 0]);
        data
    }

    /// Runs a negotiation in which the client says all this and closes.
    fn talk(flags: u32, options: &[Vec<u8>]) -> (Result<Outcome, ConnectionError>, Vec<u8>) {
        let mut said = flags.to_be_bytes().to_vec();
        options.iter().for_each(|o| said.extend(o));
        let mut heard = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let outcome = runtime.block_on(negotiate(&mut said.as_slice(), &mut heard, &export()));
        (outcome, heard.split_off(18))
    }

    /// The types of the answers to options.
    fn kinds(mut heard: &[u8]) -> Vec<u32> {
        let mut kinds = Vec::new();
        while heard.len() >= 20 {
            assert_eq!(heard[..8], OPTION_REPLY_MAGIC.to_be_bytes());
            let word = |at: usize| u32::from_be_bytes(heard[at..at + 4].try_into().expect("four bytes"));
            kinds.push(word(12));
            heard = &heard[20 + word(16) as usize..];
        }
        assert!(heard.is_empty());
        kinds
    }

    #[test]
    fn every_option_has_its_answer() {
        let check = |number: u32, data: &[u8], want: &[u32]| {
            let (outcome, heard) = talk(3, &[option_bytes(number, data), option_bytes(option::ABORT, b"")]);
            assert!(matches!(outcome, Ok(Outcome::Left)), "{outcome:?}");
            let mut want = want.to_vec();
            want.push(reply::ACK);
            assert_eq!(kinds(&heard), want, "option {number}");
        };
        check(option::LIST, b"", &[reply::SERVER, reply::ACK]);
        check(option::LIST, b"x", &[reply::ERR_INVALID]);
        check(option::STARTTLS, b"", &[reply::ERR_POLICY]);
        check(option::STRUCTURED_REPLY, b"", &[reply::ACK]);
        check(option::STRUCTURED_REPLY, b"x", &[reply::ERR_INVALID]);
        check(option::INFO, &go("vol"), &[reply::INFO, reply::INFO, reply::ACK]);
        check(
            option::INFO,
            &go(""),
            &[reply::INFO, reply::INFO, reply::INFO, reply::ACK],
        );
        check(option::INFO, &go("other"), &[reply::ERR_UNKNOWN]);
        check(option::GO, &go("other"), &[reply::ERR_UNKNOWN]);
        check(option::GO, b"", &[reply::ERR_INVALID]);
        check(option::SET_META_CONTEXT, &[0; 8], &[reply::ERR_INVALID]);
        check(4, b"", &[reply::ERR_UNSUP]);
        check(11, b"", &[reply::ERR_UNSUP]);
        check(77, b"whatever", &[reply::ERR_UNSUP]);
    }

    #[test]
    fn what_was_settled_is_in_the_terms() {
        let mut query = 0u32.to_be_bytes().to_vec();
        query.extend(1u32.to_be_bytes());
        query.extend(
            u32::try_from(ALLOCATION_CONTEXT.len())
                .expect("short")
                .to_be_bytes(),
        );
        query.extend(ALLOCATION_CONTEXT.as_bytes());
        let options = [
            option_bytes(option::STRUCTURED_REPLY, b""),
            option_bytes(option::SET_META_CONTEXT, &query),
            option_bytes(option::GO, &go("vol")),
        ];
        let (outcome, _) = talk(3, &options);
        let Ok(Outcome::Begin(terms)) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(terms.structured && terms.allocation && !terms.read_only);
    }

    #[test]
    fn old_clients_get_their_padding() {
        let (outcome, heard) = talk(0, &[option_bytes(option::EXPORT_NAME, b"")]);
        assert!(matches!(outcome, Ok(Outcome::Begin(_))));
        assert_eq!(heard.len(), 134);
        let (_, heard) = talk(3, &[option_bytes(option::EXPORT_NAME, b"vol")]);
        assert_eq!(heard.len(), 10);
    }

    #[test]
    fn whoever_breaks_the_protocol_is_dropped() {
        let check = |flags: u32, bytes: Vec<u8>| assert!(talk(flags, &[bytes]).0.is_err());
        check(4, Vec::new());
        check(3, b"GET / HTTP/1.1\r\n\r\n".to_vec());
        check(3, option_bytes(option::EXPORT_NAME, b"other"));
        check(0, option_bytes(option::LIST, b""));
        let mut absurd = option_bytes(option::LIST, b"");
        absurd.truncate(12);
        absurd.extend(u32::MAX.to_be_bytes());
        check(3, absurd);
    }

    proptest! {
        #[test]
        fn no_client_makes_it_panic(flags in 0..5u32, options in proptest::collection::vec(
            (0..13u32, proptest::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let options: Vec<_> = options.iter().map(|(n, d)| option_bytes(*n, d)).collect();
            let _ = talk(flags, &options);
        }
    }
}
