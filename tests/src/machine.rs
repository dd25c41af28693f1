//! How does a test start a virtual machine? QEMU without KVM, and a guest of 512 bytes that verifies what it writes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Sectors that [`boot_sector`] writes, from the first one on.
pub const GUEST_SECTORS: std::ops::Range<u64> = 8..0x1000;

/// QEMU's exit code when the guest found everything as it should be: twice what it said, and one.
const GOOD: i32 = 2 * 0x10 + 1;

/// A running virtual machine; killed when dropped.
#[derive(Debug)]
pub struct Machine(Child);

impl Machine {
    /// Boots from a vhost-user-blk socket; QEMU connects again whenever it is cut off.
    pub fn boot(socket: &Path) -> Machine {
        let (program, libraries, share) = qemu();
        let mut command = Command::new(program);
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        for dir in share {
            command.arg("-L").arg(dir);
        }
        let chardev = format!("socket,id=door,path={},reconnect=1", socket.display());
        command
            .args(["-machine", "q35,accel=tcg,memory-backend=memory", "-m", "32"])
            .args(["-object", "memory-backend-memfd,id=memory,size=32M,share=on"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .args(["-chardev", &chardev])
            .args(["-device", "vhost-user-blk-pci,chardev=door,bootindex=0"])
            .stdin(Stdio::null());
        Machine(command.spawn().expect("QEMU runs; scripts/qemu.sh fetches it"))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("its own child").is_none()
    }

    /// Waits until the guest says that all was well. Panics: it says otherwise, or nothing in time.
    pub fn ends_well(mut self, patience: Duration) {
        let until = Instant::now() + patience;
        let status = loop {
            match self.0.try_wait().expect("its own child") {
                Some(status) => break status,
                None if Instant::now() > until => panic!("the guest does not come to its end"),
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        assert_eq!(
            status.code(),
            Some(GOOD),
            "the guest found wrong data or an error"
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// QEMU, and what it needs beside it when it was only unpacked.
fn qemu() -> (PathBuf, Option<PathBuf>, Vec<PathBuf>) {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/qemu/usr");
    let program = unpacked.join("bin/qemu-system-x86_64");
    if program.is_file() {
        let share = ["qemu", "seabios"].map(|dir| unpacked.join("share").join(dir));
        let mut share = Vec::from(share);
        // Packages that are installed were not unpacked again.
        share.extend(["/usr/share/qemu", "/usr/share/seabios"].map(PathBuf::from));
        let libraries = unpacked.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
        return (program, Some(libraries), share);
    }
    (PathBuf::from("qemu-system-x86_64"), None, Vec::new())
}

/// What sector `number` contains after the guest has passed: its own number, again and again.
pub fn guest_sector(number: u64) -> Vec<u8> {
    (number as u16).to_le_bytes().repeat(256)
}

/// A guest that fits into the first sector: writes each of [`GUEST_SECTORS`] by the BIOS, reads it back, compares, and ends
/// QEMU by its debug port.
pub fn boot_sector() -> [u8; 512] {
    let [end_low, end_high] = (GUEST_SECTORS.end as u16).to_le_bytes();
    let code = [
        &[0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0][..], // cli; ax, ds, es, ss = 0
        &[0xbc, 0x00, 0x7c, 0xfb, 0xfc],                             // sp = 0x7c00; sti; cld
        &[0x88, 0x16, 0xf0, 0x7d],                                   // [drive] = dl
        // again: fill the buffer with the sector's number
        &[0xbf, 0x00, 0x80, 0xa1, 0xe8, 0x7d, 0xb9, 0x00, 0x01, 0xf3, 0xab],
        // write it: ah = 0x43, si = packet, dl = [drive], int 0x13; on error go to bad
        &[
            0xb8, 0x00, 0x43, 0xbe, 0xe0, 0x7d, 0x8a, 0x16, 0xf0, 0x7d, 0xcd, 0x13, 0x72, 0x35,
        ],
        // wipe the buffer
        &[0xbf, 0x00, 0x80, 0x31, 0xc0, 0xb9, 0x00, 0x01, 0xf3, 0xab],
        // read it: ah = 0x42
        &[
            0xb8, 0x00, 0x42, 0xbe, 0xe0, 0x7d, 0x8a, 0x16, 0xf0, 0x7d, 0xcd, 0x13, 0x72, 0x1d,
        ],
        // compare; if it differs go to bad
        &[
            0xbf, 0x00, 0x80, 0xa1, 0xe8, 0x7d, 0xb9, 0x00, 0x01, 0xf3, 0xaf, 0x75, 0x10,
        ],
        // the next one; below the end go to again
        &[
            0xff, 0x06, 0xe8, 0x7d, 0x81, 0x3e, 0xe8, 0x7d, end_low, end_high, 0x72, 0xb6,
        ],
        &[0xb0, 0x10, 0xeb, 0x02],                   // al = 0x10, good
        &[0xb0, 0x11],                               // bad: al = 0x11
        &[0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd], // out 0xf4, al; hlt for ever
    ]
    .concat();
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    // The BIOS's packet at 0x7de0: one sector, buffer at 0000:8000, sector number; behind it the drive.
    sector[0x1e0..0x1e8].copy_from_slice(&[0x10, 0, 1, 0, 0x00, 0x80, 0, 0]);
    sector[0x1e8..0x1f0].copy_from_slice(&GUEST_SECTORS.start.to_le_bytes());
    sector[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
