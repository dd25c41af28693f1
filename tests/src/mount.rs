//! Where does a test get a file system of its own? It mounts one, where it may; else the case is not tried, and says so.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted file system; gone with the value, with whoever still uses it.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// One in memory, of this size as `mount` reads it; `None`, with a word about it, where that is not allowed.
    pub fn memory(at: &Path, size: &str) -> Option<Mounted> {
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], at);
        tried(mounted, at)
    }

    /// One whose files can share their blocks, in a file of so many bytes beside `at`; `None`, with a word about it, where none can be made.
    pub fn sharing(at: &Path, length_bytes: u64) -> Option<Mounted> {
        let image = at.with_extension("image");
        let file = image.to_str().expect("test directories are UTF-8");
        let makers = [
            &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"][..],
            &["mkfs.btrfs", "-q", "-f"],
        ];
        let mut told = String::new();
        for maker in makers {
            File::create(&image)
                .and_then(|image| image.set_len(length_bytes))
                .expect("an image can be made");
            let made = said(Command::new(maker[0]).args(&maker[1..]).arg(&image));
            match made.and_then(|()| mount(&["-o", "loop", file], at)) {
                Ok(()) => return Some(Mounted(at.to_owned())),
                Err(error) => told = format!("{told}{error}; "),
            }
        }
        tried(Err(told), at)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes taken, once everything is where it will stay.
    pub fn used_bytes(&self) -> u64 {
        let file = File::open(&self.0).expect("it is mounted");
        rustix::fs::syncfs(&file).expect("it can be synced");
        let system = rustix::fs::fstatvfs(&file).expect("it can be asked");
        (system.f_blocks - system.f_bfree) * system.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test that fails must say its own reason.
        if let Err(error) = said(Command::new("umount").arg("-l").arg(&self.0)) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    said(Command::new("mount").args(arguments).arg(at))
}

fn tried(mounted: Result<(), String>, at: &Path) -> Option<Mounted> {
    if let Err(error) = &mounted {
        eprintln!("no file system can be mounted here: the case is not tried: {error}");
    }
    mounted.is_ok().then(|| Mounted(at.to_owned()))
}

/// Runs a program that has nothing to say unless it fails.
fn said(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
