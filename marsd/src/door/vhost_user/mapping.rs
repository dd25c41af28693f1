//! How is memory that a front end shares with us touched? Copied in and out, never borrowed; all of marsd's `unsafe` is here.
//!
//! The other side changes the bytes whenever it likes, and may even take the file away under us: so no reference to them
//! ever exists, every access is volatile or atomic and inside the mapping, and pages that are gone read as zeroes
//! ([`Mapping::is_lost`]) instead of ending the process with SIGBUS.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicUsize, Ordering};

/// Mappings of all front ends together that can be guarded; one takes a handful.
const GUARDED_MAX: usize = 32768;

/// A shared mapping of a file, from its beginning; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
    mapped_len: usize,
    guard: &'static Guarded,
}

// SAFETY: the pointer is to shared memory that stays mapped as long as the value lives, and every access through it is
// volatile or atomic, so no thread relies on what another one does with it.
unsafe impl Send for Mapping {}
// SAFETY: as above; there is no state besides.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`.
    ///
    /// Errors: not a regular file (memfd, tmpfs and hugetlbfs are), shorter than that, or the system refuses.
    pub fn new(file: &File, len: u64) -> io::Result<Mapping> {
        let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(bad("shared memory is no regular file"));
        }
        if len == 0 || found.len() < len {
            return Err(bad("shared memory is shorter than it is said to be"));
        }
        // Huge pages can only be unmapped whole.
        let whole = found.blksize().max(4096);
        let mapped_len = len
            .checked_next_multiple_of(whole)
            .and_then(|len| usize::try_from(len).ok())
            .filter(|len| *len <= isize::MAX as usize)
            .ok_or_else(|| bad("shared memory is too long"))?;
        let guard = Guarded::claim()?;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            guard.release();
            return Err(error);
        }
        guard.begin(base as usize, mapped_len);
        Ok(Mapping {
            base: base.cast(),
            len: usize::try_from(len).expect("not longer than mapped_len"),
            mapped_len,
            guard,
        })
    }

    /// Whether the front end took pages away; whatever was in them is gone, for the guest too.
    pub fn is_lost(&self) -> bool {
        self.guard.lost.load(Ordering::Relaxed)
    }

    /// Where `len` bytes from `at` begin.
    ///
    /// Panics: not inside the mapping; whoever computed `at` from a guest's number has checked it.
    fn inside(&self, at: usize, len: usize) -> *mut u8 {
        assert!(
            at <= self.len && len <= self.len - at,
            "{len} bytes at {at} are not in a mapping of {}",
            self.len
        );
        // SAFETY: at most `len`, so inside the mapping or one past its end.
        unsafe { self.base.add(at) }
    }

    /// Copies out.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        let from = self.inside(at, into.len());
        let (head, rest) = into.split_at_mut(from.align_offset(8).min(into.len()));
        let (words, tail) = rest.as_chunks_mut::<8>();
        let mut from: *const u8 = from;
        let bytes = |into: &mut [u8], from: &mut *const u8| {
            for byte in into {
                // SAFETY: `inside` has checked as many bytes as `into` is long, and each is passed once.
                unsafe {
                    *byte = from.read_volatile();
                    *from = from.add(1);
                }
            }
        };
        bytes(head, &mut from);
        for word in words {
            // SAFETY: as above, eight at a time; `align_offset` has aligned the first one.
            unsafe {
                *word = u64::from_le(from.cast::<u64>().read_volatile()).to_le_bytes();
                from = from.add(8);
            }
        }
        bytes(tail, &mut from);
    }

    /// Copies in.
    pub fn write(&self, at: usize, from: &[u8]) {
        let into = self.inside(at, from.len());
        let (head, rest) = from.split_at(into.align_offset(8).min(from.len()));
        let (words, tail) = rest.as_chunks::<8>();
        let mut into = into;
        let bytes = |from: &[u8], into: &mut *mut u8| {
            for byte in from {
                // SAFETY: `inside` has checked as many bytes as `from` is long, and each is passed once.
                unsafe {
                    into.write_volatile(*byte);
                    *into = into.add(1);
                }
            }
        };
        bytes(head, &mut into);
        for word in words {
            // SAFETY: as above, eight at a time; `align_offset` has aligned the first one.
            unsafe {
                into.cast::<u64>()
                    .write_volatile(u64::from_le_bytes(*word).to_le());
                into = into.add(8);
            }
        }
        bytes(tail, &mut into);
    }

    fn word(&self, at: usize) -> &AtomicU16 {
        let place = self.inside(at, 2);
        assert!(place.cast::<u16>().is_aligned(), "an odd address of a ring");
        // SAFETY: inside the mapping and aligned; other threads and processes touch it as atomics too, or do not care.
        unsafe { AtomicU16::from_ptr(place.cast()) }
    }

    /// A little-endian number at an even address.
    pub fn load_u16(&self, at: usize, order: Ordering) -> u16 {
        u16::from_le(self.word(at).load(order))
    }

    /// The same, set.
    pub fn store_u16(&self, at: usize, value: u16, order: Ordering) {
        self.word(at).store(value.to_le(), order);
    }

    /// Sets bits that others set too.
    pub fn set_bits(&self, at: usize, bits: u8) {
        let place = self.inside(at, 1);
        // SAFETY: inside the mapping; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(place) }.fetch_or(bits, Ordering::SeqCst);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.guard.release();
        // SAFETY: mapped by `new` with this length, and nothing else of ours points into it.
        let result = unsafe { libc::munmap(self.base.cast(), self.mapped_len) };
        debug_assert_eq!(result, 0, "unmapping what was mapped");
    }
}

/// Where SIGBUS is no bug but a front end that cut its file.
#[derive(Debug)]
struct Guarded {
    taken: AtomicBool,
    /// 0: nothing yet.
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static GUARDED: [Guarded; GUARDED_MAX] = [const {
    Guarded {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; GUARDED_MAX];

/// Who handled SIGBUS before us.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

impl Guarded {
    fn claim() -> io::Result<&'static Guarded> {
        guard_process()?;
        GUARDED
            .iter()
            .find(|guarded| !guarded.taken.swap(true, Ordering::AcqRel))
            .ok_or_else(|| io::Error::other("too much memory is shared with front ends"))
    }

    fn begin(&self, start: usize, len: usize) {
        self.lost.store(false, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.start.store(start, Ordering::Release);
    }

    fn release(&self) {
        self.start.store(0, Ordering::Release);
        self.taken.store(false, Ordering::Release);
    }
}

fn guard_process() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: an all-zero sigaction is a valid one, filled in below or by the kernel.
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both point to valid values; the handler does nothing that a signal handler must not.
        let result = unsafe {
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, ptr::null(), &mut before)
        };
        if result != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        BEFORE.get_or_init(|| before);
        // SAFETY: as above.
        if unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        Ok(())
    });
    installed.map_err(io::Error::from_raw_os_error)
}

/// Puts zero pages where a front end's memory was; any other SIGBUS goes to who handled it before.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler that was installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    for guarded in &GUARDED {
        let start = guarded.start.load(Ordering::Acquire);
        let len = guarded.len.load(Ordering::Relaxed);
        if start == 0 || address < start || address - start >= len {
            continue;
        }
        guarded.lost.store(true, Ordering::Relaxed);
        // SAFETY: replaces exactly one of our own mappings, which the interrupted access keeps alive; nothing but raw
        // pointers go there. mmap is a bare system call and safe in a handler.
        let replaced = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if replaced != libc::MAP_FAILED {
            return;
        }
    }
    // SAFETY: restores a disposition that the kernel itself gave us (or the default one); the access is then repeated.
    unsafe {
        match BEFORE.get() {
            Some(before) => libc::sigaction(signal, before, ptr::null_mut()),
            None => libc::signal(signal, libc::SIG_DFL) as libc::c_int,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_alignment() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(256).unwrap();
        let mapping = Mapping::new(&file, 256).unwrap();
        for at in 0..17 {
            for len in 0..40 {
                mapping.write(0, &[0; 256]);
                let bytes: Vec<u8> = (1..=len).collect();
                mapping.write(at, &bytes);
                let mut back = vec![0; usize::from(len)];
                mapping.read(at, &mut back);
                assert_eq!(back, bytes, "{len} bytes at {at}");
                let mut all = [0; 256];
                mapping.read(0, &mut all);
                assert_eq!(all.iter().filter(|byte| **byte != 0).count(), bytes.len());
            }
        }
        mapping.store_u16(254, 0x1234, Ordering::Relaxed);
        let mut both = [0; 2];
        mapping.read(254, &mut both);
        assert_eq!(both, [0x34, 0x12]);
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(Mapping::new(&file, 4097).is_err());
        assert!(Mapping::new(&file, 0).is_err());
        assert!(Mapping::new(&File::open("/dev/zero").unwrap(), 4096).is_err());
        assert!(Mapping::new(&file, u64::MAX).is_err());
    }

    #[test]
    fn a_file_that_is_cut_reads_as_zeroes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mapping = Mapping::new(&file, 1 << 20).unwrap();
        mapping.write(1 << 19, b"here");
        file.set_len(0).unwrap();
        let mut bytes = *b"none";
        mapping.read(1 << 19, &mut bytes);
        assert_eq!(bytes, [0; 4]);
        assert!(mapping.is_lost());
        mapping.write(0, b"lost");
        drop(mapping);
    }
}
